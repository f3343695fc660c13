"""The Triton kernels' values against float64, written out: the cases that tests and cards share.

Each check makes its inputs, runs a kernel, and says how far each result is from the obvious form.
The tests run those of SMALL on a CPU, interpreted, or on a GPU; gpu_check runs them all.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from experiments.kernels import ops, reference
from experiments.kernels.interface import AdamWStep, Kernel
from experiments.kernels.select import resolve_kernel

# of the largest entry: a result of float32 arithmetic; a gradient stored in bfloat16 loses besides
# at most the last of 8 bits (half of it on a GPU; the interpreter does not round but truncates)
FLOAT32, BFLOAT16 = 1e-5, 2**-7 + 1e-5
TRITON = ops.Execution(kernel="triton")
TYPES = (torch.float32, torch.bfloat16)
GATHERS = (  # T, J, D, N
    (1, 1, 1, 1),
    (11, 24, 17, 50),  # ragged
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


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far one result is from the reference, and how far it may be."""

    what: str
    error: float
    allowed: float

    @property
    def within(self) -> bool:
        """A NaN is not."""
        return self.error <= self.allowed


class Check(Protocol):
    """One case of one kernel."""

    @property
    def kernel(self) -> str:
        """What is checked."""
        ...

    @property
    def case(self) -> str:
        """Sizes and types in a few words."""
        ...

    def inputs(self, device: str) -> tuple[Any, ...]:
        """From torch's global generator."""
        ...

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        """What the kernel makes of them; the inputs stay as they are."""
        ...

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        """Of each of the results."""
        ...


def small() -> Iterator[Check]:
    """What the CPU tests run too."""
    for dtype in TYPES:
        for shape in GATHERS:
            yield GatherDot(shape=shape, dtype=dtype)
            yield GatherSum(shape=shape, dtype=dtype)
    yield HotRow(shape=HOT)
    for n_sub, top_k in SEARCHES:
        for per_head in (False, True):
            yield Search(n_sub=n_sub, top_k=top_k, per_head=per_head)
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


def of_largest(what: str, fast: Tensor, slow: Tensor) -> Deviation:
    """The largest difference over the largest entry, which is what rounding errors scale with."""
    allowed = BFLOAT16 if fast.dtype == torch.bfloat16 else FLOAT32
    if fast.shape != slow.shape:
        return Deviation(what=f"{what}, of shape {tuple(fast.shape)}", error=torch.nan, allowed=0)
    largest = float(slow.abs().max())
    furthest = float((fast.double() - slow).abs().max())
    # where all is zero, so must the result be
    error = furthest / largest if largest else furthest * float("inf") if furthest else 0.0
    return Deviation(what=what, error=error, allowed=allowed)


def of_each(what: str, fast: Tensor, slow: Tensor) -> Deviation:
    """The largest difference, each over 1 + its entry, as torch.testing has it."""
    error = ((fast.double() - slow).abs() / (1 + slow.abs())).max()
    return Deviation(what=what, error=float(error), allowed=FLOAT32)


def triton_for(table: Tensor) -> Kernel:
    """The implementation; a ValueError says why it can't be had."""
    kernel = resolve_kernel("triton", table.device.type, table.dtype)
    assert kernel is not None
    return kernel


def _drawn(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    n_tokens, n_columns, width, n = shape
    x = torch.randn(n_tokens, width, device=device)
    table = torch.randn(n, width, device=device).to(dtype)
    idx = torch.randint(0, n, (n_tokens, n_columns), device=device)
    weights = torch.randn(n_tokens, n_columns, device=device)
    return x, table, idx, weights


def _sizes(shape: tuple[int, ...]) -> str:
    return "T={} J={} D={} N={}".format(*shape)


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@dataclass(frozen=True, kw_only=True)
class GatherDot:
    """Forward, and the gradients of activations and of the table."""

    shape: tuple[int, int, int, int]
    dtype: torch.dtype
    kernel: str = "gather_dot"

    @property
    def case(self) -> str:
        return f"{_sizes(self.shape)} {_name(self.dtype)}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        return _drawn(self.shape, device, self.dtype)[:3]

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
        return f"{_sizes(self.shape)} {_name(self.dtype)}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        return _drawn(self.shape, device, self.dtype)[1:]

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        return gradients(partial(ops.gather_sum, execution=TRITON), *inputs)

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        table, idx, weights = inputs
        slow = gradients(reference.gather_sum, table.double(), idx, weights.double())
        names = ("value", "gradient of the table", "gradient of the weights")
        return [of_largest(*each) for each in zip(names, results, slow, strict=True)]


def sums_in_float64(values: Tensor, idx: Tensor, weights: Tensor, n: int) -> Tensor:
    """(T, D), (T, J), (T, J) to (N, D): each row's sum of weights_tj values_t."""
    pairs = weights.double().unsqueeze(-1) * values.double().unsqueeze(1)
    sums = torch.zeros(n, values.shape[1], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, idx.flatten(), pairs.flatten(0, 1))


@dataclass(frozen=True, kw_only=True)
class HotRow:
    """table_sums where one row has most of the pairs, so that it is summed in chunks."""

    shape: tuple[int, int, int, int]
    kernel: str = "row sums"

    @property
    def case(self) -> str:
        return f"{_sizes(self.shape)}, 95 % of pairs on one row"

    def inputs(self, device: str) -> tuple[Any, ...]:
        x, _, idx, weights = _drawn(self.shape, device, torch.float32)
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


def step_of(**changes: Any) -> AdamWStep:
    """The step of the checks."""
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
    return AdamWStep(**{**numbers, **changes})


def state_of(
    n: int, width: int, types: tuple[torch.dtype, torch.dtype], device: str
) -> list[Tensor]:
    """A table and its two moments."""
    draws = (torch.randn, torch.randn, torch.rand)
    wanted = (types[0], types[1], types[1])
    return [
        draw(n, width, device=device).to(dtype) for draw, dtype in zip(draws, wanted, strict=True)
    ]


def adamw_in_float64(
    state: Sequence[Tensor], rows: Tensor, gradient: Tensor, step: AdamWStep
) -> list[Tensor]:
    """The given rows' weights and moments after a step (Loshchilov 2019, arXiv:1711.05101)."""
    weight, mean, square = (t[rows].double() for t in state)
    g = gradient.double()
    mean = step.beta1 * mean + (1 - step.beta1) * g
    square = step.beta2 * square + (1 - step.beta2) * g * g
    corrected_mean = mean / (1 - step.beta1**step.step)
    corrected_square = square / (1 - step.beta2**step.step)
    weight = weight - step.lr * step.weight_decay * weight
    weight = weight - step.lr * corrected_mean / (corrected_square.sqrt() + step.eps)
    return [weight, mean, square]


def rounded_by_noise(x: Tensor, rows: Tensor, step: int, salt: int) -> Tensor:
    """x (R, D) float32 as bfloat16: 16 bits of a hash of step, salt and place are added first.

    In int64, modulo 2**32 after each product.
    """
    place = rows.unsqueeze(1) * x.shape[1] + torch.arange(x.shape[1], device=x.device)
    h = (place * 0x9E3779B1 + step * 0x85EBCA6B + salt * 0x27D4EB2F) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x046CA68B) & 0xFFFFFFFF
    noise = (h ^ (h >> 16)) & 0xFFFF
    bits = x.contiguous().view(torch.int32).long() + noise
    return (bits & ~0xFFFF).int().view(torch.float32).to(torch.bfloat16)


def _of_step(
    results: Sequence[Tensor],
    before: Sequence[Tensor],
    rows: Tensor,
    gradient: Tensor,
    step: AdamWStep,
) -> list[Deviation]:
    """Of stepped rows: float32 to its arithmetic. bfloat16 to one of the two neighbours, and to
    the very one that the noise says but where a last bit of float32 decides, which is seldom: with
    other noise half of the entries would differ. Of other rows: none.
    """
    found = []
    wanted = adamw_in_float64(before, rows, gradient, step)
    for salt, (name, now, slow) in enumerate(zip(("weight", "mean", "square"), results, wanted)):
        stepped = now[rows]
        if now.dtype == torch.bfloat16:
            room = 2**-7 * slow.abs() + FLOAT32
            error = float(((stepped.double() - slow).abs() / room).max())
            found.append(Deviation(what=f"{name}, of a neighbour", error=error, allowed=1))
            exact = rounded_by_noise(slow.float(), rows, step.step, salt)
            share = float((stepped != exact).double().mean())
            found.append(Deviation(what=f"{name}, rounded otherwise", error=share, allowed=0.01))
        else:
            found.append(of_each(name, stepped, slow))
        rest = torch.ones(len(now), dtype=torch.bool, device=now.device)
        rest[rows] = False
        moved = int((now[rest] != before[salt][rest]).sum())
        found.append(Deviation(what=f"{name}, entries of other rows", error=moved, allowed=0))
    return found


@dataclass(frozen=True, kw_only=True)
class RowAdamW:
    """A step of some rows by their gradients."""

    n: int
    width: int
    rows: tuple[int, ...]
    types: tuple[torch.dtype, torch.dtype]
    kernel: str = "row AdamW"

    @property
    def case(self) -> str:
        table, moments = map(_name, self.types)
        return f"N={self.n} D={self.width} {table}, moments {moments}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        rows = torch.tensor(self.rows, device=device)
        gradient = torch.randn(len(rows), self.width, device=device)
        return state_of(self.n, self.width, self.types, device), rows, gradient

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        state, rows, gradient = inputs
        table, *moments = (t.clone() for t in state)
        triton_for(table).row_adamw(table, tuple(moments), rows, gradient, step_of())
        return [table, *moments]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        state, rows, gradient = inputs
        return _of_step(results, state, rows, gradient, step_of())


@dataclass(frozen=True, kw_only=True)
class RowAdamWOfSums:
    """A step of the retrieved rows by sums that the kernel makes itself."""

    shape: tuple[int, int, int, int]
    types: tuple[torch.dtype, torch.dtype]
    kernel: str = "row AdamW of sums"

    @property
    def case(self) -> str:
        table, moments = map(_name, self.types)
        return f"{_sizes(self.shape)} {table}, moments {moments}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        x, _, idx, weights = _drawn(self.shape, device, torch.float32)
        return state_of(self.shape[3], self.shape[2], self.types, device), x, idx, weights

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        state, x, idx, weights = inputs
        table, *moments = (t.clone() for t in state)
        kernel = triton_for(table)
        segments = kernel.sort(idx, self.shape[3])
        kernel.row_adamw_of_sums(table, tuple(moments), x, segments, weights, step_of())
        return [table, *moments]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        state, x, idx, weights = inputs
        rows = idx.unique()
        gradient = sums_in_float64(x, idx, weights, self.shape[3])[rows]
        return _of_step(results, state, rows, gradient, step_of())


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Stores in bfloat16 to the bit: with betas of 0 the moments are g and g * g, exactly."""

    step: int
    kernel: str = "stochastic rounding"

    @property
    def case(self) -> str:
        return f"step {self.step}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        rows = torch.tensor([1, 2, 70], device=device)
        return rows, torch.randn(3, 40, device=device)

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        rows, g = inputs
        table, mean, square = (
            torch.zeros(71, 40, device=g.device, dtype=torch.bfloat16) for _ in range(3)
        )
        plain = step_of(beta1=0.0, beta2=0.0, weight_decay=0.0, step=self.step)
        triton_for(table).row_adamw(table, (mean, square), rows, g, plain)
        return [mean[rows], square[rows]]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        rows, g = inputs
        exact = [rounded_by_noise(x, rows, self.step, salt) for salt, x in ((1, g), (2, g * g))]
        return [
            Deviation(what=f"{name} to the bit", error=float((a != b).sum()), allowed=0)
            for name, a, b in zip(("g", "g * g"), results, exact, strict=True)
        ]


@dataclass(frozen=True, kw_only=True)
class FarRows:
    """Rows whose addresses pass 2**31 entries: read, summed and stepped."""

    shape: tuple[int, int, int, int]
    kernel: str = "rows beyond 2**31 entries"

    @property
    def case(self) -> str:
        return f"{_sizes(self.shape)} bfloat16"

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
