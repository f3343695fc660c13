"""Experts that are nearest to some by what they write, and by the keys that find them."""

from collections.abc import Callable, Sequence
from functools import partial

import pandas as pd
import torch
from torch import Tensor

from experiments.init.growth.product_keys import split_halves
from experiments.inspection.interface import Inspected
from experiments.models.ffn._product_keys import ProductKeyFFN
from experiments.models.ffn.moe import MoE
from experiments.models.ffn.omni import Omni
from experiments.models.ffn.sgatlin import Sgatlin
from experiments.models.ffn.ultramem import UltraMem

N_NEAREST = 5


@torch.no_grad()
def nearest(layer: Inspected, experts: Sequence[int]) -> pd.DataFrame:
    """A line an expert, a measure (value, key) and a rank: expert, by, rank, other, cosine.

    value: of the rows that they write through. key: of both halves of product keys together, over
    all heads where these have keys of their own; of the sum of two rows, where scores are of one
    query (sgatlin, omni); of a mixture's rows of the router. Other layers have no line of it.
    """
    lines = []
    key_cosines = _key_measure(layer)
    for expert in experts:
        measures = {"value": _value_cosines(layer.layer.slot_rows(), expert)}
        if key_cosines is not None:
            measures["key"] = key_cosines(expert)
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


def _key_measure(layer: Inspected) -> Callable[[int], Tensor] | None:
    """Cosines (N,) of an expert's key with all."""
    module = layer.module
    if isinstance(module, MoE):
        return partial(_value_cosines, module.router.weight)
    if isinstance(module, Omni):
        first, second = module.router.detach().view(2, module.side, -1)
        return partial(_value_cosines, _sums(first.unsqueeze(1), second.unsqueeze(1)))
    if isinstance(module, Sgatlin) or (
        isinstance(module, ProductKeyFFN)
        and not isinstance(module, UltraMem)
        and module.config.n_groups == 1
    ):
        first, second = split_halves(module.sub_keys.detach(), module.config)
        if isinstance(module, Sgatlin):  # (C, S, d) of each; rows of the table: (a, channel, b)
            return partial(_value_cosines, _sums(first.transpose(0, 1), second.transpose(0, 1)))
        first, second = (half.movedim(-2, 0).flatten(1) for half in (first, second))  # of all heads
        return partial(_key_cosines, first, second)
    return None


def _sums(first: Tensor, second: Tensor) -> Tensor:
    """(S1, C, d) and (S2, C, d) to (S1 * C * S2, d), one of each, of the same channel."""
    both = first.unsqueeze(2) + second.transpose(0, 1).unsqueeze(0)
    return both.flatten(0, 2)


def _key_cosines(first: Tensor, second: Tensor, expert: int) -> Tensor:
    """Cosines of the rows of (S1, d) and (S2, d)."""
    row, column = divmod(expert, len(second))
    dots = (first @ first[row]).unsqueeze(1) + second @ second[column]
    squares = first.square().sum(1).unsqueeze(1) + second.square().sum(1)
    return (dots / (squares * squares[row, column]).sqrt()).flatten().double()
