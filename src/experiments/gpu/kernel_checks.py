"""The Triton kernels' values against float64, written out: the cases that tests and cards share.

Each check makes its inputs, runs a kernel, and says how far each result is from the obvious form.
The tests run those of small() on a CPU, interpreted, or on a GPU; gpu_check runs them all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from experiments.gpu.adamw_checks import (
    Rounding,
    RowAdamW,
    RowAdamWOfSums,
    adamw_in_float64,
    step_of,
)
from experiments.gpu.check import (
    FLOAT32,
    Check,
    Deviation,
    drawn,
    name_of,
    of_each,
    of_largest,
    sizes,
    sums_in_float64,
    triton_for,
)
from experiments.kernels import ops, reference

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
STATES = tuple((table, moments) for table in TYPES for moments in TYPES)  # types of both
STEPS = (1, 2, 16, 123_457)  # of which the rounding's noise is a hash
FAR = (64, 32, 1024, 2**21 + 64)  # N * D passes 2**31: addresses of 64 bits


def small() -> Iterator[Check]:
    """What the CPU tests run too. Sizes take turns at what they have nothing to do with."""
    for i, shape in enumerate(GATHERS):
        yield GatherDot(shape=shape, dtype=TYPES[i % 2])
        yield GatherSum(shape=shape, dtype=TYPES[(i + 1) % 2])
    yield HotRow(shape=HOT)
    for i, (n_sub, top_k) in enumerate(SEARCHES):
        yield Search(n_sub=n_sub, top_k=top_k, per_head=i % 2 == 1)
    for types in STATES:
        for width in (17, 1030):
            yield RowAdamW(n=9, width=width, rows=(0, 2, 3, 8), types=types)
        yield RowAdamWOfSums(shape=(9, 8, 17, 12), types=types)
    for step in STEPS:
        yield Rounding(step=step)


def large() -> Iterator[Check]:
    """What needs a card: sizes of training, hot experts, addresses beyond 2**31."""
    for dtype in TYPES:
        for shape in LARGE_GATHERS:
            yield GatherDot(shape=shape, dtype=dtype)
            yield GatherSum(shape=shape, dtype=dtype)
    yield HotRow(shape=LARGE_HOT)
    for n_sub, top_k in LARGE_SEARCHES:
        yield Search(n_sub=n_sub, top_k=top_k, per_head=False, n_tokens=16, d_key=128)
    for types in STATES:
        yield RowAdamWOfSums(shape=(1024, 128, 1024, 2**16), types=types)
    yield FarRows(shape=FAR)


def gradients(function: Callable[..., Tensor], *inputs: Tensor) -> list[Tensor]:
    """The value and the gradient of every input that has one, dense."""
    leaves = [t.clone().requires_grad_(t.is_floating_point()) for t in inputs]
    out = function(*leaves)
    upstream = torch.sin(torch.arange(out.numel(), device=out.device)).view_as(out)
    out.backward(upstream.to(out.dtype))
    return [out.detach(), *(leaf.grad for leaf in leaves if leaf.grad is not None)]


@dataclass(frozen=True, kw_only=True)
class GatherDot:
    """Forward, and the gradients of activations and of the table."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    kernel: str = "gather_dot"

    @property
    def case(self) -> str:
        return f"{sizes(self.shape)} {name_of(self.dtype)}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        return drawn(self.shape, device, self.dtype)[:3]

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        return gradients(partial(ops.gather_dot, execution=TRITON), *inputs)

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        x, table, idx = inputs
        slow = gradients(reference.gather_dot, x.double(), table.double(), idx)
        names = ("value", "gradient of x", "gradient of the table")
        return [of_largest(*each) for each in zip(names, results, slow, strict=True)]


@dataclass(frozen=True, kw_only=True)
class GatherSum:
    """Forward, and the gradients of the table and of the weights."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    kernel: str = "gather_sum"

    @property
    def case(self) -> str:
        return f"{sizes(self.shape)} {name_of(self.dtype)}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        return drawn(self.shape, device, self.dtype)[1:]

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        return gradients(partial(ops.gather_sum, execution=TRITON), *inputs)

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        table, idx, weights = inputs
        slow = gradients(reference.gather_sum, table.double(), idx, weights.double())
        names = ("value", "gradient of the table", "gradient of the weights")
        return [of_largest(*each) for each in zip(names, results, slow, strict=True)]


@dataclass(frozen=True, kw_only=True)
class HotRow:
    """table_sums where one row has most of the pairs, so that it is summed in chunks."""

    shape: tuple[int, int, int, int]
    kernel: str = "row sums"

    @property
    def case(self) -> str:
        return f"{sizes(self.shape)}, 95 % of pairs on one row"

    def inputs(self, device: str) -> tuple[Any, ...]:
        x, _, idx, weights = drawn(self.shape, device, torch.float32)
        idx[torch.rand(idx.shape, device=device) < 0.95] = min(3, self.shape[-1] - 1)
        return x, idx, weights

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        x, idx, weights = inputs
        kernel = triton_for(x)
        segments = kernel.sort(idx, self.shape[-1])
        return [kernel.table_sums(x, segments, weights, torch.float32)]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        x, idx, weights = inputs
        return [of_largest("sums", results[0], sums_in_float64(x, idx, weights, self.shape[-1]))]


@dataclass(frozen=True, kw_only=True)
class Search:
    """The best product keys against a scan of all of them, and the gradients of a loss."""

    n_sub: int
    top_k: int
    per_head: bool
    n_tokens: int = 4
    n_heads: int = 2
    d_key: int = 10
    kernel: str = "product-key search"

    @property
    def case(self) -> str:
        keys = "keys a head" if self.per_head else "shared keys"
        sizes = f"T={self.n_tokens} h={self.n_heads} d_key={self.d_key}"
        return f"{sizes} N={self.n_sub}² k={self.top_k}, {keys}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        queries = torch.randn(self.n_tokens, self.n_heads, self.d_key, device=device)
        shape = (2, self.n_sub, self.d_key // 2)
        return queries, torch.randn((self.n_heads, *shape) if self.per_head else shape).to(device)

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        queries, sub_keys = inputs
        return self._searched(partial(ops.product_key_topk, execution=TRITON), queries, sub_keys)

    def _searched(
        self, search: Callable[..., tuple[Tensor, Tensor]], queries: Tensor, sub_keys: Tensor
    ) -> list[Tensor]:
        """Scores, indices, and the gradients of a loss of the scores."""
        leaves = [t.clone().requires_grad_() for t in (queries, sub_keys)]
        scores, indices = search(*leaves, self.top_k)
        scores.softmax(-1).square().sum().backward()
        return [scores.detach(), indices, *(t.grad for t in leaves if t.grad is not None)]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        queries, sub_keys = (t.double() for t in inputs)
        scores, indices, *grads = results
        best, _, *slow = self._searched(reference.product_key_topk, queries, sub_keys)
        # among scores that are tied but for rounding, another expert may come first
        largest = float(best.abs().max())
        n = self.n_sub**2
        outside = ((indices < 0) | (indices >= n)).sum()
        own = (_scores_of(queries, sub_keys, indices.clamp(0, n - 1)) - best).abs().max()
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


def _scores_of(queries: Tensor, sub_keys: Tensor, indices: Tensor) -> Tensor:
    """(T, H, K): the score of each index, sub-key by sub-key."""
    n_heads, n_sub = queries.shape[1], sub_keys.shape[-2]
    keys = sub_keys if sub_keys.dim() == 4 else sub_keys.expand(n_heads, *sub_keys.shape)
    head = torch.arange(n_heads, device=queries.device).view(1, -1, 1)
    first, second = keys[head, 0, indices // n_sub], keys[head, 1, indices % n_sub]
    return torch.einsum("thd,thkd->thk", queries, torch.cat([first, second], dim=-1))


@dataclass(frozen=True, kw_only=True)
class FarRows:
    """Rows whose addresses pass 2**31 entries: read, summed and stepped."""

    shape: tuple[int, int, int, int]
    kernel: str = "rows beyond 2**31 entries"

    @property
    def case(self) -> str:
        return f"{sizes(self.shape)} bfloat16"

    def inputs(self, device: str) -> tuple[Any, ...]:
        n_tokens, n_columns, width, n = self.shape
        table = torch.empty(n, width, device=device, dtype=torch.bfloat16).normal_()
        moments = [torch.zeros_like(table) for _ in range(2)]
        x = torch.randn(n_tokens, width, device=device)
        idx = torch.randint(0, n, (n_tokens, n_columns), device=device)
        idx[:, 0] = n - 1 - torch.arange(n_tokens, device=device) % min(n, 64)  # the last rows
        return [table, *moments], x, idx, torch.randn(n_tokens, n_columns, device=device)

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        state, x, idx, weights = inputs
        table, *moments = state
        kernel = triton_for(table)
        segments = kernel.sort(idx, len(table))
        rows = segments.rows
        kept = [t[rows].clone() for t in state]
        sums = kernel.row_sums(x, segments, weights, torch.float32)
        results = [kernel.dot(x, table, idx), kernel.weighted_sum(table, idx, weights), sums]
        kernel.row_adamw(table, tuple(moments), rows, sums, step_of())
        results += [t[rows] for t in state]
        for tensor, rows_before in zip(state, kept, strict=True):
            tensor[rows] = rows_before
        return results

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        state, x, idx, weights = inputs
        dot, weighted, sums, *stepped = results
        read = state[0][idx].double()
        rows, place = idx.unique(return_inverse=True)
        slow_sums = sums_in_float64(x, place, weights, len(rows))
        found = [
            of_largest("dot", dot, torch.einsum("td,tjd->tj", x.double(), read)),
            of_largest("sum", weighted, torch.einsum("tj,tjd->td", weights.double(), read)),
            of_largest("row sums", sums, slow_sums),
        ]
        for name, fast, slow in zip(
            ("weight", "mean", "square"),
            stepped,
            adamw_in_float64(state, rows, slow_sums, step_of()),
            strict=True,
        ):
            room = 2**-7 * slow.abs() + FLOAT32
            error = float(((fast.double() - slow).abs() / room).max())
            found.append(Deviation(what=f"{name}, of a neighbour", error=error, allowed=1))
        return found
