"""The experts that are nearest to some by what they write, and by the keys that find them."""

from collections.abc import Sequence

import pandas as pd
import torch
from torch import Tensor

from experiments.init.growth.product_keys import halves_of
from experiments.inspection.interface import Inspected
from experiments.models.ffn._product_keys import ProductKeyFFN
from experiments.models.ffn.ultramem import UltraMem

N_NEAREST = 5


@torch.no_grad()
def nearest(layer: Inspected, experts: Sequence[int]) -> pd.DataFrame:
    """A line an expert, a measure (value, key) and a rank: expert, by, rank, other, cosine.

    value: of the rows that they write through. key: of both halves of product keys together, over
    all heads where these have keys of their own; other layers have no line of it.
    """
    lines = []
    keys = _key_halves(layer)
    for expert in experts:
        measures = {"value": _value_cosines(layer.layer.slot_rows(), expert)}
        if keys is not None:
            measures["key"] = _key_cosines(*keys, expert)
        for by, cosines in measures.items():
            cosines[expert] = -torch.inf
            most = cosines.topk(min(N_NEAREST, len(cosines) - 1))
            pairs = zip(most.indices.tolist(), most.values.tolist(), strict=True)
            lines += [
                (int(expert), by, i + 1, other, cosine) for i, (other, cosine) in enumerate(pairs)
            ]
    return pd.DataFrame(lines, columns=["expert", "by", "rank", "other", "cosine"])


def _value_cosines(rows: Tensor, expert: int) -> Tensor:
    flat = rows.detach().flatten(1)
    norms = flat.norm(dim=1).clamp_min(torch.finfo(flat.dtype).tiny)
    return (flat @ flat[expert] / (norms * norms[expert])).double()


def _key_halves(layer: Inspected) -> tuple[Tensor, Tensor] | None:
    """(S1, d) and (S2, d), of all heads one after another."""
    module = layer.module
    if not isinstance(module, ProductKeyFFN) or isinstance(module, UltraMem):
        return None
    if module.config.n_groups > 1:
        return None
    first, second = halves_of(module.sub_keys.detach(), module.config)
    return tuple(half.movedim(-2, 0).flatten(1) for half in (first, second))  # type: ignore[return-value]


def _key_cosines(first: Tensor, second: Tensor, expert: int) -> Tensor:
    row, column = divmod(expert, len(second))
    dots = (first @ first[row]).unsqueeze(1) + second @ second[column]
    squares = first.square().sum(1).unsqueeze(1) + second.square().sum(1)
    return (dots / (squares * squares[row, column]).sqrt()).flatten().double()
