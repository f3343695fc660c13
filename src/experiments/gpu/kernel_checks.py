"""Triton kernels' values against float64, written out: the cases that tests and cards share.

Each check makes its inputs, runs a kernel, and says how far each result is from the obvious form.
The tests run those of small() on a CPU, interpreted, or on a GPU; `bench gpu` runs them all.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from experiments.benchmarks.core.shapes import type_name
from experiments.gpu.adamw_checks import (
    STATE,
    adamw_in_float64,
    make_step,
    rounding,
    row_adamw,
    row_adamw_of_sums,
)
from experiments.gpu.check import (
    FLOAT32,
    Check,
    Deviation,
    Inputs,
    drawn,
    of_each,
    of_largest,
    of_neighbour,
    sizes,
    sums_in_float64,
    triton_for,
)
from experiments.gpu.grouped_checks import grouped
from experiments.kernels import ops, reference

Shape = tuple[int, int, int, int]  # T, J, D, N
TRITON = ops.Execution(kernel="triton")
TYPES = (torch.float32, torch.bfloat16)
GATHERS = (  # T, J, D, N
    (1, 1, 1, 1),
    (5, 24, 17, 50),  # ragged
    (7, 16, 4, 2),  # every row many times
    (4, 12, 96, 1001),  # most rows never
    (3, 20, 1030, 7),  # more than one block of columns, and of rows
)
LARGE_GATHERS = ((2048, 128, 1024, 2**16), (4096, 128, 16, 2**20), (512, 256, 768, 2**16))
HOT = (60, 40, 17, 50)  # with 95 % of the pairs on one row: more than two chunks of 1024
LARGE_HOT = (4096, 128, 256, 2**16)
SEARCHES = (  # S, K
    (8, 1),
    (7, 5),
    (16, 16),
    (3, 8),
    (2, 4),
    (1, 1),
    (33, 20),
)
LARGE_SEARCHES = ((1024, 16), (1024, 32), (500, 16))
GROUPED = (  # rows of each expert, and the sides of its matrix
    ((1,), (1, 1)),
    ((3, 0, 5, 2), (10, 7)),  # ragged, and an expert of none
    ((0, 0, 0, 10), (16, 33)),  # all rows are one expert's
    ((70, 1, 33, 0), (130, 70)),  # more than one tile of everything
)
LARGE_GROUPED = (((2000, 0, 1, 31, *[180] * 12), (1024, 4096)), ((4096, *[64] * 63), (1000, 256)))
STATES = tuple((table, moments) for table in TYPES for moments in TYPES)  # types of both
STEPS = (1, 2, 16, 123_457)  # of which the rounding's noise is a hash
FAR = (64, 32, 1024, 2**21 + 64)  # N * D passes 2**31: addresses of 64 bits


def small() -> Iterator[Check]:
    """Checks that the CPU tests run too. Sizes take turns at what they have nothing to do with."""
    for i, shape in enumerate(GATHERS):
        yield gather("gather_dot", shape, TYPES[i % 2])
        yield gather("gather_sum", shape, TYPES[(i + 1) % 2])
    yield hot_row(HOT)
    for i, (n_sub, top_k) in enumerate(SEARCHES):
        yield search(n_sub, top_k, per_head=i % 2 == 1)
    for i, (counts, sides) in enumerate(GROUPED):
        yield grouped(counts, sides, TYPES[i % 2], ours=i > 1)
        yield grouped(counts, sides, TYPES[(i + 1) % 2], ours=i <= 1)
    for types in STATES:
        for width in (17, 1030):
            yield row_adamw(9, width, (0, 2, 3, 8), types)
        yield row_adamw_of_sums((9, 8, 17, 12), types)
    for step in STEPS:
        yield rounding(step)


def large() -> Iterator[Check]:
    """Checks that need a card: sizes of training, hot experts, addresses beyond 2**31."""
    for dtype in TYPES:
        for shape in LARGE_GATHERS:
            yield gather("gather_dot", shape, dtype)
            yield gather("gather_sum", shape, dtype)
    yield hot_row(LARGE_HOT)
    for n_sub, top_k in LARGE_SEARCHES:
        yield search(n_sub, top_k, per_head=False, n_tokens=16, d_key=128)
    for counts, sides in LARGE_GROUPED:
        for dtype in TYPES:
            yield grouped(counts, sides, dtype, ours=True)
            yield grouped(counts, sides, dtype, ours=False)
    for types in STATES:
        yield row_adamw_of_sums((1024, 128, 1024, 2**16), types)
    yield far_rows(FAR)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """Value and the gradient of every input that has one, dense."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    upstream = torch.sin(torch.arange(out.numel(), device=out.device)).view_as(out)
    out.backward(upstream.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


def gather(kernel: str, shape: Shape, dtype: torch.dtype) -> Check:
    """gather_dot or gather_sum: forward, and the gradients of the table and of the other factor."""
    of_dot = kernel == "gather_dot"
    fast = partial(getattr(ops, kernel), execution=TRITON)
    names = ["gradient of x", "gradient of the table", "gradient of the weights"]

    def inputs(device: str) -> Inputs:
        x, table, idx, weights = drawn(shape, device, dtype)
        return (x, table, idx) if of_dot else (table, idx, weights)

    def deviations(results: Sequence[Tensor], *given: Tensor) -> list[Deviation]:
        exact = (t.double() if t.is_floating_point() else t for t in given)
        slow = gradients(getattr(reference, kernel), *exact)
        what = ("value", *(names[:2] if of_dot else names[1:]))
        return [of_largest(*each) for each in zip(what, results, slow, strict=True)]

    return Check(
        kernel=kernel,
        case=f"{sizes(shape)} {type_name(dtype)}",
        inputs=inputs,
        run=partial(gradients, fast),
        deviations=deviations,
    )


def hot_row(shape: Shape) -> Check:
    """table_sums where one row has most of the pairs, so that it is summed in chunks."""
    n = shape[-1]

    def inputs(device: str) -> Inputs:
        x, _, idx, weights = drawn(shape, device, torch.float32)
        idx[torch.rand(idx.shape, device=device) < 0.95] = min(3, n - 1)
        return x, idx, weights

    def run(x: Tensor, idx: Tensor, weights: Tensor) -> list[Tensor]:
        kernel = triton_for(x)
        return [kernel.table_sums(x, kernel.sort(idx, n), weights, torch.float32)]

    return Check(
        kernel="row sums",
        case=f"{sizes(shape)}, 95 % of pairs on one row",
        inputs=inputs,
        run=run,
        deviations=lambda results, x, idx, weights: [
            of_largest("sums", results[0], sums_in_float64(x, idx, weights, n))
        ],
    )


def search(
    n_sub: int,
    top_k: int,
    *,
    per_head: bool,
    n_tokens: int = 4,
    n_heads: int = 2,
    d_key: int = 10,
) -> Check:
    """Best product keys against a scan of all of them, and the gradients of a loss."""
    n = n_sub**2

    def inputs(device: str) -> Inputs:
        queries = torch.randn(n_tokens, n_heads, d_key, device=device)
        shape = (2, n_sub, d_key // 2)
        return queries, torch.randn((n_heads, *shape) if per_head else shape).to(device)

    def searched(by: Callable[..., tuple[Tensor, Tensor]], *given: Tensor) -> list[Tensor]:
        """Scores, indices, and the gradients of a loss of the scores."""
        leaves = [t.clone().requires_grad_() for t in given]
        scores, indices = by(*leaves, top_k)
        scores.softmax(-1).square().sum().backward()
        return [scores.detach(), indices, *(t.grad for t in leaves if t.grad is not None)]

    def deviations(results: Sequence[Tensor], *given: Tensor) -> list[Deviation]:
        queries, sub_keys = (t.double() for t in given)
        scores, indices, *grads = results
        best, _, *slow = searched(reference.product_key_topk, queries, sub_keys)
        # among scores that are tied but for rounding, another expert may come first
        largest = float(best.abs().max())
        outside = ((indices < 0) | (indices >= n)).sum()
        own = (_score_pairs(queries, sub_keys, indices.clamp(0, n - 1)) - best).abs().max()
        twice = (indices.sort(dim=-1).values.diff(dim=-1) == 0).sum()
        names = ("gradient of queries", "gradient of sub-keys")
        return [
            of_largest("scores", scores, best),
            Deviation(what="scores of the indices", error=float(own) / largest, allowed=FLOAT32),
            Deviation(what="indices out of range", error=float(outside), allowed=0),
            Deviation(what="experts taken twice", error=float(twice), allowed=0),
            # a lone score's gradient is 0
            *(of_each(*each) for each in zip(names, grads, slow, strict=True)),
        ]

    return Check(
        kernel="product-key search",
        case=f"T={n_tokens} h={n_heads} d_key={d_key} N={n_sub}² k={top_k}, "
        + ("keys a head" if per_head else "shared keys"),
        inputs=inputs,
        run=partial(searched, partial(ops.product_key_topk, execution=TRITON)),
        deviations=deviations,
    )


def _score_pairs(queries: Tensor, sub_keys: Tensor, indices: Tensor) -> Tensor:
    """(T, H, K): the score of each index, sub-key by sub-key."""
    n_heads, n_sub = queries.shape[1], sub_keys.shape[-2]
    keys = sub_keys if sub_keys.dim() == 4 else sub_keys.expand(n_heads, *sub_keys.shape)
    head = torch.arange(n_heads, device=queries.device).view(1, -1, 1)
    first, second = keys[head, 0, indices // n_sub], keys[head, 1, indices % n_sub]
    return torch.einsum("thd,thkd->thk", queries, torch.cat([first, second], dim=-1))


def far_rows(shape: Shape) -> Check:
    """Rows whose addresses pass 2**31 entries: read, summed and stepped."""
    n_tokens, n_columns, width, n = shape

    def inputs(device: str) -> Inputs:
        table = torch.empty(n, width, device=device, dtype=torch.bfloat16).normal_()
        moments = [torch.zeros_like(table) for _ in range(2)]
        x = torch.randn(n_tokens, width, device=device)
        idx = torch.randint(0, n, (n_tokens, n_columns), device=device)
        idx[:, 0] = n - 1 - torch.arange(n_tokens, device=device) % min(n, 64)  # the last rows
        return [table, *moments], x, idx, torch.randn(n_tokens, n_columns, device=device)

    def run(state: list[Tensor], x: Tensor, idx: Tensor, weights: Tensor) -> list[Tensor]:
        table, mean, square = state
        kernel = triton_for(table)
        segments = kernel.sort(idx, n)
        rows = segments.rows
        kept = [t[rows].clone() for t in state]
        sums = kernel.row_sums(x, segments, weights, torch.float32)
        results = [kernel.dot(x, table, idx), kernel.weighted_sum(table, idx, weights), sums]
        kernel.row_adamw(table, (mean, square), rows, sums, make_step())
        results += [t[rows] for t in state]
        for tensor, rows_before in zip(state, kept, strict=True):
            tensor[rows] = rows_before
        return results

    def deviations(
        results: Sequence[Tensor], state: list[Tensor], x: Tensor, idx: Tensor, weights: Tensor
    ) -> list[Deviation]:
        dot, weighted, sums, *stepped = results
        read = state[0][idx].double()
        rows, place = idx.unique(return_inverse=True)
        slow_sums = sums_in_float64(x, place, weights, len(rows))
        slow = adamw_in_float64(state, rows, slow_sums, make_step())
        return [
            of_largest("dot", dot, torch.einsum("td,tjd->tj", x.double(), read)),
            of_largest("sum", weighted, torch.einsum("tj,tjd->td", weights.double(), read)),
            of_largest("row sums", sums, slow_sums),
            *(of_neighbour(*each) for each in zip(STATE, stepped, slow, strict=True)),
        ]

    return Check(
        kernel="rows beyond 2**31 entries",
        case=f"{sizes(shape)} bfloat16",
        inputs=inputs,
        run=run,
        deviations=deviations,
    )
