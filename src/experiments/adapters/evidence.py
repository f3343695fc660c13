"""Evidence from the tokens before, at each of them: sums that forget, causal, and with a cache."""

import math
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor


class Text:
    """Texts of a batch: one object from their first token to their last, over forward passes
    that go on from a cache of keys and values. It keeps what each evidence has found so far.
    """

    def __init__(self) -> None:
        self.found: WeakKeyDictionary[Evidence, tuple[int, Tensor]] = WeakKeyDictionary()

    def reorder(self, rows: Tensor) -> None:
        """Makes these rows the batch's, as a search by beams chooses them."""
        for evidence, (n_read, sums) in list(self.found.items()):
            self.found[evidence] = n_read, sums[rows.to(sums.device)]


class Evidence:
    """Sums of features (batch, n, d) over the tokens so far, s_t = x_t + (1 - 1/memory) s_t-1.

    memory: in tokens. 1: each token alone; inf: all tokens so far with one weight. Padding is no
    token: it adds nothing, and nothing is forgotten at it.
    """

    def __init__(self, memory: float) -> None:
        self.decay = 1 - 1 / memory

    def sums(
        self, x: Tensor, text: Text | None = None, n_read: int = 0, mask: Any = None
    ) -> Tensor:
        """(batch, n, d), of positions n_read to n_read + n of the text.

        mask: as transformers' attention_mask (batch, all positions so far), 0 for padding. Raises
        ValueError for a mask of another form, and for a text whose beginning was read by other
        means.
        """
        if self.decay == 0:
            return x
        n = x.shape[1]
        before = None
        if n_read:
            n_found, before = (0, None) if text is None else text.found.get(self, (0, None))
            if before is None or n_found != n_read or len(before) != len(x):
                raise ValueError(
                    f"{n_read} tokens of this text were read before its library was attached, or "
                    "in another batch, or some were taken back; begin the text again"
                )
        found = _decayed(x, self.decay, before, _tokens_in(mask, n))
        if text is not None:
            text.found[self] = n_read + n, found[:, -1].detach()
        return found


def _tokens_in(mask: Any, n: int) -> Tensor | None:
    """(batch, n) bool, which of the last n positions are tokens; None: all."""
    if mask is None:
        return None
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        form = (
            f"{mask.dim()} dimensions" if isinstance(mask, Tensor) else f"a {type(mask).__name__}"
        )
        raise ValueError(
            f"attention_mask ({form}) doesn't say which tokens are padding, and a route with "
            "memory above 1 counts tokens; give one of (batch, n), or generate with the default "
            "cache, or route with memory=1"
        )
    kept = mask[:, -n:].bool()
    return None if bool(kept.all()) else kept


def _decayed(x: Tensor, decay: float, before: Tensor | None, kept: Tensor | None) -> Tensor:
    """By chunks: within one by a triangle of powers, from one to the next by its last sum."""
    size = 128
    if kept is None:
        counts = torch.arange(1, x.shape[1] + 1, device=x.device)[None]
    else:
        kept = kept.to(x.device)
        x, counts = x * kept[..., None], kept.cumsum(1)
    base = torch.tensor(decay, dtype=x.dtype, device=x.device)
    parts, n_before = [], torch.zeros_like(counts[:, :1])
    for chunk, count in zip(x.split(size, dim=1), counts.split(size, dim=1)):
        n_since = (count[:, :, None] - count[:, None, :]).clamp(min=0)
        part = (base**n_since).tril() @ chunk
        if before is not None:
            part = part + (base ** (count - n_before))[..., None] * before[:, None]
        before, n_before = part[:, -1], count[:, -1:]
        parts.append(part)
    return torch.cat(parts, dim=1)


def checked_memory(memory: float) -> float:
    """Raises ValueError unless it is 1 or more."""
    if not (memory >= 1 or memory == math.inf):
        raise ValueError(f"memory={memory} must be at least 1 token; inf is all tokens so far")
    return memory
