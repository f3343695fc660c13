"""Tokens that layers look at, as transformers' arguments and cache say them."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .tokens import Tokens


class _Kept:
    """Keeps for layers what they need of earlier positions, as layers of transformers' cache after
    the blocks': so they are reordered, repeated and cropped as keys are.
    """

    def __init__(self, cache: Any, n_blocks: int) -> None:
        from transformers.cache_utils import DynamicLayer

        self.new_layer = DynamicLayer
        if not all(type(layer) is DynamicLayer for layer in cache.layers):
            raise ValueError(
                "this model's layers look at the tokens before, and a cache of one fixed size or "
                "window doesn't keep them; use DynamicCache (cache_implementation=None)"
            )
        self.cache, self.n_blocks = cache, n_blocks

    def extend(self, state: int, values: Tensor, n: int) -> Tensor:
        """Values of the n positions before, zeros where there are none, and these."""
        place, length = self.n_blocks + state, values.shape[1]
        while len(self.cache.layers) <= place:
            self.cache.layers.append(self.new_layer())
        kept, _ = self.cache.update(values[:, None], values[:, None, :, :0], place)
        kept = kept[:, 0, -(n + length) :]
        return F.pad(kept, (0, 0, n + length - kept.shape[1], 0))


def make_tokens(
    ids: Tensor | None, attention_mask: Tensor | None, n_past: int, cache: Any, n_blocks: int
) -> Tokens:
    """Ids as layers that look at them are handed them; padding is no token before another."""
    if ids is None:
        raise ValueError(
            "this model's layers look at the ids of tokens, which inputs_embeds doesn't say; give "
            "input_ids"
        )
    n = ids.shape[1]
    places = torch.arange(n_past, n_past + n, device=ids.device).expand_as(ids)
    if attention_mask is not None:
        if attention_mask.dim() == 4:
            raise ValueError(
                "this model's layers look at the tokens before, and an attention_mask of four "
                "dimensions doesn't say which are padding; give one of two, or none"
            )
        after = torch.arange(1, n_past + n + 1, device=ids.device)
        padded = torch.where(attention_mask[:, : n_past + n] == 0, after, 0).cummax(1).values
        places = places - F.pad(padded[:, :-1], (1, 0))[:, n_past:]
    kept = None if cache is None else _Kept(cache, n_blocks)
    return Tokens(ids, places, kept)
