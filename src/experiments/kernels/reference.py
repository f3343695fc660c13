"""The obvious forms of the kernels, for the tests and for reading. Slow; they hold (T, J, D)."""

import torch
from torch import Tensor


def gather_dot(x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
    """(T, D), (N, D), (T, J) to (T, J): x_t . table[idx_tj]."""
    return torch.einsum("td,tjd->tj", x, table[idx])


def gather_sum(table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
    """(N, D), (T, J), (T, J) to (T, D): sum_j weights_tj table[idx_tj]."""
    return torch.einsum("tj,tjd->td", weights, table[idx])


def product_key_topk(queries: Tensor, sub_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """Scores all N = n_sub**2 product keys and takes the best: (T, H, top_k) scores and indices.

    queries (T, H, d_key); sub_keys (2, n_sub, d_key / 2), or (H, 2, n_sub, d_key / 2).
    Expert i is the pair (i // n_sub, i % n_sub).
    """
    n_sub = sub_keys.shape[-2]
    n_heads = queries.shape[1]
    per_head = sub_keys if sub_keys.dim() == 4 else sub_keys.expand(n_heads, *sub_keys.shape)
    first = per_head[:, 0].repeat_interleave(n_sub, dim=1)  # (H, N, d_key/2): C
    second = per_head[:, 1].repeat(1, n_sub, 1)  # (H, N, d_key/2): C'
    scores = torch.einsum("thd,hnd->thn", queries, torch.cat([first, second], dim=-1))
    best = scores.topk(top_k, dim=-1)
    return best.values, best.indices
