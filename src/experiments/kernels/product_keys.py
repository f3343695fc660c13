"""Exact top-k over N = n_sub**2 product keys from two searches over n_sub sub-keys.

He 2024 (arXiv:2407.04153), Eq. 4-5, after Lample 2019 (arXiv:1907.05242). Suffixes:
T tokens, H heads, S sub-keys (n_sub), K top_k, P candidate pairs.
"""

from functools import lru_cache

import torch
from torch import Tensor


@lru_cache(maxsize=64)
def candidate_pairs(top_k: int, n_sub: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks (i, j) in the two sorted halves whose sum can be among the top_k, from 0.

    (i, j) has (i + 1)(j + 1) - 1 pairs at least as good, so only (i + 1)(j + 1) <= top_k count:
    50 of the 256 pairs at top_k=16. At least top_k pairs remain whenever n_sub**2 >= top_k.
    """
    half = min(top_k, n_sub)
    pairs = [(i, j) for i in range(half) for j in range(half) if (i + 1) * (j + 1) <= top_k]
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs)


def product_key_topk(queries: Tensor, sub_keys: Tensor, top_k: int) -> tuple[Tensor, Tensor]:
    """The top_k product keys of each query: (T, H, K) scores, best first, and expert indices.

    queries (T, H, d_key), the two halves one after the other; sub_keys (2, S, d_key / 2) shared
    by the heads, or (H, 2, S, d_key / 2). Expert i is the pair (i // S, i % S).
    Equal to a scan over all N keys; among tied scores any choice is a right one.
    """
    n_tokens, n_heads, d_key = queries.shape
    n_sub = sub_keys.shape[-2]
    halves = queries.view(n_tokens, n_heads, 2, d_key // 2)
    keys = "asd" if sub_keys.dim() == 3 else "hasd"
    scores_THAS = torch.einsum(f"thad,{keys}->thas", halves, sub_keys)

    best = scores_THAS.topk(min(top_k, n_sub), dim=-1)
    left, right = candidate_pairs(top_k, n_sub)
    i = torch.tensor(left, device=queries.device)
    j = torch.tensor(right, device=queries.device)
    sums_THP = best.values[:, :, 0].index_select(-1, i) + best.values[:, :, 1].index_select(-1, j)
    scores_THK, winner = sums_THP.topk(top_k, dim=-1)
    first = best.indices[:, :, 0].gather(-1, i[winner])
    second = best.indices[:, :, 1].gather(-1, j[winner])
    return scores_THK, first * n_sub + second
