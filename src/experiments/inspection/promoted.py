"""Tokens that experts make likelier by what they write, through the final norm and the head."""

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch
from tokenizers import Tokenizer
from torch import Tensor

from experiments.inspection.interface import Inspected, final_norm, find_device
from experiments.models.ffn._slots import Slots
from experiments.models.transformer import Transformer

N_PROMOTED = 8  # tokens at each end
_COLUMNS = ("expert", "side", "rank", "id", "token", "deviations", "of")


@torch.no_grad()
def promoted(
    model: Transformer,
    layer: Inspected,
    experts: Sequence[int],
    signs: np.ndarray,
    tokenizer: Tokenizer,
    in_contexts: Callable[[Sequence[int]], Tensor] | None = None,
) -> pd.DataFrame:
    """A line an expert and a token at either end: promoted, or suppressed.

    What an expert writes, times the final norm's weights and the head's rows, is one number a
    token. They are in standard deviations from their mean over the vocabulary, because the norm's
    scale is each token's own. signs (E,): of the experts' mean weights. Where what an expert writes
    depends on the token by more than its weight, rows are those of in_contexts (E, d_model), what
    it wrote there on average; without these no line is of it. of: row, or contexts.
    """
    rows, of = written_rows(model, layer, experts), "row"
    if rows is None:
        if in_contexts is None:
            return pd.DataFrame({name: [] for name in _COLUMNS})
        rows, of = in_contexts(experts), "contexts"
    else:
        rows = rows * torch.from_numpy(signs).to(rows).unsqueeze(1)
    scores = (rows * final_norm(model).weight.double()) @ model.head.weight.double().t()
    spread = scores.std(1, keepdim=True)
    far = torch.where(spread > 0, (scores - scores.mean(1, keepdim=True)) / spread, 0.0)
    lines = []
    for side, sign in (("promoted", 1), ("suppressed", -1)):
        most = (sign * far).topk(min(N_PROMOTED, far.shape[1]), dim=1)
        for expert, values, ids in zip(experts, most.values, most.indices, strict=True):
            for rank, (value, token) in enumerate(zip(values.tolist(), ids.tolist(), strict=True)):
                text = str(tokenizer.decode([token], skip_special_tokens=False))
                lines.append((int(expert), side, rank + 1, token, text, sign * value, of))
    return pd.DataFrame(lines, columns=list(_COLUMNS))


def written_rows(model: Transformer, layer: Inspected, experts: Sequence[int]) -> Tensor | None:
    """(E, d_model) float64, what experts write at a weight of 1; None where that depends on the
    token, which two random ones show.
    """
    device = find_device(model)
    chosen = torch.tensor(list(experts), device=device).unsqueeze(1)
    one = torch.ones(chosen.shape, device=device)
    slots = Slots(experts=chosen, gates=one, weights=one)
    made = torch.Generator().manual_seed(0)
    tokens = torch.randn(2, len(chosen), model.config.d_model, generator=made).to(device)
    first, second = (layer.layer.written(x, slots)[:, 0].double() for x in tokens)
    return first if torch.equal(first, second) else None
