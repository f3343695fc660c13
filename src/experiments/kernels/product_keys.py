"""Which pairs of sub-keys can be among the best: He 2024 (arXiv:2407.04153), Eq. 4-5."""

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


def read_sub_keys(
    sub_keys: Tensor, first: Tensor, second: Tensor, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """A search's scores as weighted sums of one table's rows, which is how they are differentiated.

    sub_keys (G, 2, S, d); first, second and weights (T, H, K). Returns the table of all sub-keys
    (G * 2 * S, d), and the rows that each half of a query reads with their weights, (T * H * 2, K).
    """
    n_groups, _, n_sub, width = sub_keys.shape
    head = torch.arange(n_groups, device=first.device).view(-1, 1) * 2 * n_sub  # (H or 1, 1)
    rows = first.new_empty(*first.shape[:2], 2, first.shape[2])
    torch.add(first, head, out=rows[:, :, 0])
    torch.add(second, head + n_sub, out=rows[:, :, 1])
    of_both = weights.unsqueeze(2).expand(-1, -1, 2, -1)
    return sub_keys.view(-1, width), rows.flatten(0, 2), of_both.flatten(0, 2).contiguous()
