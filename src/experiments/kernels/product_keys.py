"""Which pairs of sub-keys can be among the best: He 2024 (arXiv:2407.04153), Eq. 4-5."""

from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import torch
from torch import Tensor, nn

QUERY_NORMS = ("none", "layer", "batch")
SCORES = ("softmax", "sigmoid", "relu")


@dataclass(frozen=True, kw_only=True)
class ProductKeyParts:
    """A product-key layer as the fused operators take it (kernels/product_key_layer.py).

    query_norm: a norm of the kind that its name says, one of QUERY_NORMS; fixed: batch norm by its
    running statistics. sub_keys, n_first, bias: as a search takes them (ops.product_key_topk).
    score: one of SCORES. w_down, w_gate: PEER's, w_gate with glu alone; None for PKM, whose values
    are w_up. activation: a name of kernels/trunk.py's ACTIVATIONS.
    """

    query: nn.Linear
    query_norm: nn.Module
    norm_kind: str
    fixed: bool
    sub_keys: Tensor
    n_first: int | None
    bias: Tensor | None
    n_heads: int
    top_k: int
    score: str
    activation: str
    w_down: Tensor | None
    w_gate: Tensor | None
    w_up: Tensor


@lru_cache(maxsize=64)
def candidate_pairs(
    top_k: int, n_first: int, n_second: int
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks (i, j) in the two sorted halves whose sum can be among the top_k, from 0.

    (i, j) has (i + 1)(j + 1) - 1 pairs at least as good, so only (i + 1)(j + 1) <= top_k count:
    50 of the 256 pairs at top_k=16. At least top_k pairs remain whenever
    n_first * n_second >= top_k.
    """
    halves = range(min(top_k, n_first)), range(min(top_k, n_second))
    pairs = [(i, j) for i, j in product(*halves) if (i + 1) * (j + 1) <= top_k]
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs)


def both_sets(sub_keys: Tensor, n_first: int | None) -> tuple[Tensor, int]:
    """Sub-keys as kernels take them, (G, S1 + S2, d) and S1, G being 1 where heads share them.

    From (2, S, d) or (H, 2, S, d), two sets of a size, or, with n_first = S1, from (S1 + S2, d) or
    (H, S1 + S2, d): those of the first half, then those of the second.
    """
    if n_first is None:
        n_first = sub_keys.shape[-2]
        sub_keys = sub_keys.flatten(-3, -2)
    return (sub_keys if sub_keys.dim() == 3 else sub_keys.unsqueeze(0)), n_first


def scores_of_halves(
    queries: Tensor, sub_keys: Tensor, n_first: int, bias: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(T, H, S1) and (T, H, S2) scores of the two sets, by matrix products.

    queries (T, H, 2, d), sub_keys (G, S1 + S2, d), bias (S1,) or None: interface.py's search.
    """
    first = _products(queries[:, :, 0], sub_keys[:, :n_first])
    second = _products(queries[:, :, 1], sub_keys[:, n_first:])
    return (first if bias is None else first.add_(bias)), second


def _products(queries: Tensor, keys: Tensor) -> Tensor:
    """(T, H, d) and (G, S, d) to (T, H, S). By mm and bmm: what matmul does depends on whether a
    tensor wants a gradient, and so its last bits.
    """
    if len(keys) == 1:
        return torch.mm(queries.flatten(0, 1), keys[0].t()).view(*queries.shape[:2], -1)
    return torch.bmm(queries.transpose(0, 1), keys.transpose(1, 2)).transpose(0, 1)


def read_sub_keys(
    sub_keys: Tensor, n_first: int, first: Tensor, second: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A search's scores as weighted sums of one table's rows, which is how they are differentiated.

    sub_keys (G, S1 + S2, d); first, second and weights (T, H, K). Returns the table of all sub-keys
    (G * (S1 + S2), d), and the rows that each half of a query reads with their weights,
    (T * H * 2, K).
    """
    n_groups, n_both, width = sub_keys.shape
    head = torch.arange(n_groups, device=first.device).view(-1, 1) * n_both  # (H or 1, 1)
    rows = first.new_empty(*first.shape[:2], 2, first.shape[2])
    torch.add(first, head, out=rows[:, :, 0])
    torch.add(second, head + n_first, out=rows[:, :, 1])
    of_both = weights.unsqueeze(2).expand(-1, -1, 2, -1)
    return sub_keys.view(-1, width), rows.flatten(0, 2), of_both.flatten(0, 2).contiguous()
