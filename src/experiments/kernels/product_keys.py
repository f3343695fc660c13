"""Which pairs of sub-keys can be among the best: He 2024 (arXiv:2407.04153), Eq. 4-5."""

from functools import lru_cache


@lru_cache(maxsize=64)
def candidate_pairs(top_k: int, n_sub: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ranks (i, j) in the two sorted halves whose sum can be among the top_k, from 0.

    (i, j) has (i + 1)(j + 1) - 1 pairs at least as good, so only (i + 1)(j + 1) <= top_k count:
    50 of the 256 pairs at top_k=16. At least top_k pairs remain whenever n_sub**2 >= top_k.
    """
    half = min(top_k, n_sub)
    pairs = [(i, j) for i in range(half) for j in range(half) if (i + 1) * (j + 1) <= top_k]
    return tuple(i for i, _ in pairs), tuple(j for _, j in pairs)
