"""Obvious forms of the kernels, for the tests and for reading. Slow; they hold (T, J, D)."""

import torch
from torch import Tensor

from experiments.kernels.product_keys import both_sets


def gather_dot(x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
    """(T, D), (N, D), (T, J) to (T, J): x_t . table[idx_tj]."""
    return torch.einsum("td,tjd->tj", x, table[idx])


def gather_sum(table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
    """(N, D), (T, J), (T, J) to (T, D): sum_j weights_tj table[idx_tj]."""
    return torch.einsum("tj,tjd->td", weights, table[idx])


def product_key_topk(
    queries: Tensor,
    sub_keys: Tensor,
    top_k: int,
    n_first: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Scores all N = S1 * S2 product keys and takes the best: (T, H, top_k) scores and indices.

    queries (T, H, d_key); sub_keys as product_keys.both_sets takes them: C and C'. bias (S1,) is
    added to C's scores. Expert i is the pair (i // S2, i % S2).
    """
    sub_keys, n_first = both_sets(sub_keys, n_first)
    per_head = sub_keys.expand(queries.shape[1], -1, -1)
    n_second = per_head.shape[1] - n_first
    first = per_head[:, :n_first].repeat_interleave(n_second, dim=1)  # (H, N, d_key/2)
    second = per_head[:, n_first:].repeat(1, n_first, 1)  # (H, N, d_key/2)
    scores = torch.einsum("thd,hnd->thn", queries, torch.cat([first, second], dim=-1))
    if bias is not None:
        scores = scores + bias.repeat_interleave(n_second)
    best = scores.topk(top_k, dim=-1)
    return best.values, best.indices
