# mypy: disable-error-code="no-untyped-def"
"""Search for product keys in Triton: search of interface.py.

Scores are torch's matrix products, a block of tokens at a time. The best of a half, and then the
best of the pairs, are taken one after the other by a program that holds a whole row in registers:
top_k rounds of two reductions within a warp, where torch.topk's radix selection passes over the
row once for every two bits. Scores are compared as integers in the same order, which is a total
one: with NaNs too each round takes another place, and indices are within range.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from experiments.kernels.product_keys import candidate_pairs
from experiments.kernels.triton_launch import launch, power_of_2

_SCORES = 2**24  # held at once: 64 MB, to be read again while much of it is in the cache


def search(
    queries: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None
) -> tuple[Tensor, ...]:
    """(T, H, 2, d), (G, S1 + S2, d) to (T, H, K) scores, best first, and sub-keys of each half."""
    n_tokens, n_heads = queries.shape[:2]
    n_groups, n_both, _ = sub_keys.shape
    shape = (n_tokens, n_heads, top_k)
    scores = torch.empty(shape, device=queries.device)
    first, second = (torch.empty(shape, dtype=torch.int64, device=queries.device) for _ in "ab")
    sets, size = _sets(sub_keys, n_first), max(1, _SCORES // (n_heads * n_both))
    for start in range(0, n_tokens, size):
        block = slice(start, start + size)
        # (2, G, tokens x heads a group, d): heads that share keys are one matrix product
        grouped = queries[block].unflatten(1, (n_groups, -1)).permute(3, 1, 0, 2, 4).flatten(2, 3)
        found = [
            half @ keys.mT for half, keys in zip(grouped.split(len(sets[0])), sets, strict=True)
        ]
        if bias is not None:
            found[0][0] += bias
        _best_of_block(found, (scores[block], first[block], second[block]))
    return scores, first, second


def _sets(sub_keys: Tensor, n_first: int) -> tuple[Tensor, ...]:
    """(G, S1 + S2, d) to those of both halves, (2, G, S, d), which are then one product and one
    search; or, where there are not as many of both, to (1, G, S1, d) and (1, G, S2, d).
    """
    if 2 * n_first == sub_keys.shape[1]:
        return (sub_keys.unflatten(1, (2, n_first)).transpose(0, 1).contiguous(),)
    return sub_keys[None, :, :n_first], sub_keys[None, :, n_first:]


def _best_of_block(found: Sequence[Tensor], out: tuple[Tensor, Tensor, Tensor]) -> None:
    """Scores of both halves, (2, G, M, S) or (1, G, M, S1) and (1, G, M, S2), to the best pairs'
    (T, H, K) scores and sub-keys.
    """
    _, n_groups, n_queries, n_first = found[0].shape
    n_tokens, n_heads, top_k = out[0].shape
    best = [
        half
        for scores in found
        for half in zip(*_best_of_each(scores, min(top_k, scores.shape[-1])), strict=True)
    ]
    left, right = _candidates(top_k, n_first, found[-1].shape[-1], found[0].device)
    width = power_of_2(len(left))
    launch(
        best_pairs_kernel,
        n_tokens * n_heads,
        *best[0],
        *best[1],
        left,
        right,
        *out,
        len(left),
        *(values.shape[-1] for values, _ in best),
        top_k,
        n_heads,
        n_heads // n_groups,
        n_queries,
        WIDTH=width,
        KEPT=power_of_2(top_k),
        num_warps=_warps(width),
    )


def _best_of_each(scores: Tensor, n_kept: int) -> tuple[Tensor, Tensor]:
    """(..., S) to the (..., n_kept) best, best first, and where they are."""
    values = torch.empty(*scores.shape[:-1], n_kept, device=scores.device)
    places = torch.empty(values.shape, dtype=torch.int32, device=scores.device)
    whole = power_of_2(scores.shape[-1])
    launch(
        best_kernel,
        values.numel() // n_kept,
        scores,
        values,
        places,
        scores.shape[-1],
        n_kept,
        WIDTH=whole,
        KEPT=power_of_2(n_kept),
        num_warps=_warps(whole),
    )
    return values, places


def _warps(width: int) -> int:
    """32 elements a lane, at most 16 warps."""
    return min(16, max(1, width // 1024))


@lru_cache(maxsize=64)  # else each search would copy them to the GPU, and wait for it
def _candidates(
    top_k: int, n_first: int, n_second: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    pairs = candidate_pairs(top_k, n_first, n_second)
    left, right = (torch.tensor(ranks, dtype=torch.int32, device=device) for ranks in pairs)
    return left, right


@triton.jit
def best_kernel(
    scores, values, places, n: tl.constexpr, n_kept, WIDTH: tl.constexpr, KEPT: tl.constexpr
):
    """A program: the n_kept best of one row of n scores, best first, and where they are."""
    row = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, WIDTH)
    x = tl.load(scores + row * n + lane, mask=lane < n, other=0.0).to(tl.float32)
    best, place = _best(tl.where(lane < n, _ordered(x), -2147483648), n_kept, WIDTH, KEPT)
    rank = tl.arange(0, KEPT)
    at = row * n_kept + rank
    tl.store(values + at, _unordered(best), mask=rank < n_kept)
    tl.store(places + at, place, mask=rank < n_kept)


@triton.jit
def best_pairs_kernel(
    values1,
    places1,
    values2,
    places2,
    left,
    right,
    scores,
    first,
    second,
    n,
    n_kept1,
    n_kept2,
    top_k,
    n_heads,
    per_group,
    n_queries,
    WIDTH: tl.constexpr,
    KEPT: tl.constexpr,
):
    """A program: the top_k best of one query's n pairs of kept sub-keys, best first.

    per_group heads share keys, and n_queries tokens and heads have one group's.
    """
    token, head = tl.program_id(0) // n_heads, tl.program_id(0) % n_heads
    query = (head // per_group).to(tl.int64) * n_queries + token * per_group + head % per_group
    lane = tl.arange(0, WIDTH)
    i = tl.load(left + lane, mask=lane < n, other=0)
    j = tl.load(right + lane, mask=lane < n, other=0)
    x = tl.load(values1 + query * n_kept1 + i) + tl.load(values2 + query * n_kept2 + j)
    best, place = _best(tl.where(lane < n, _ordered(x), -2147483648), top_k, WIDTH, KEPT)
    rank = tl.arange(0, KEPT)
    kept = rank < top_k
    i = tl.load(left + place, mask=kept, other=0)
    j = tl.load(right + place, mask=kept, other=0)
    at = tl.program_id(0).to(tl.int64) * top_k + rank
    tl.store(scores + at, _unordered(best), mask=kept)
    tl.store(first + at, tl.load(places1 + query * n_kept1 + i).to(tl.int64), mask=kept)
    tl.store(second + at, tl.load(places2 + query * n_kept2 + j).to(tl.int64), mask=kept)


@triton.jit
def _best(keys, n_kept, WIDTH: tl.constexpr, KEPT: tl.constexpr):
    """(KEPT,) the n_kept greatest of (WIDTH,) keys and their lanes; equal ones by lane.

    The least int32 marks keys that are taken or absent; at least n_kept others are to be there.
    """
    lane = tl.arange(0, WIDTH)
    rank = tl.arange(0, KEPT)
    best = tl.full((KEPT,), 0, tl.int32)
    place = tl.full((KEPT,), 0, tl.int32)
    for k in range(n_kept):
        greatest = tl.max(keys, 0)
        taken = tl.min(tl.where(keys == greatest, lane, WIDTH), 0)
        best = tl.where(rank == k, greatest, best)
        place = tl.where(rank == k, taken, place)
        keys = tl.where(lane == taken, -2147483648, keys)
    return best, place


@triton.jit
def _ordered(x):
    """float32 as int32 of the same order, NaNs at its ends; never the least int32."""
    bits = x.to(tl.int32, bitcast=True)
    return tl.maximum(bits ^ ((bits >> 31) & 0x7FFFFFFF), -2147483647)


@triton.jit
def _unordered(key):
    """Float32 that _ordered made a key of."""
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
