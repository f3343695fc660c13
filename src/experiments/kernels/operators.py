"""Kernels as operators of torch.library, namespace `experiments`: what a compiled graph calls.

    dot(x, table, idx, kernel) and weighted_sum(table, idx, weights, kernel)    differentiable
    search(halves, sub_keys, n_first, top_k, bias, kernel) -> scores, first, second   differentiable
    sort(idx, n_rows, dtype, kernel) -> rows, offsets, order, n_distinct
    table_sums(values, rows, offsets, order, n_distinct, weights, n_rows, dtype, kernel)

`kernel` is a name of select.py, resolved when the operator runs; shapes are interface.py's. torch's
compiler sees names, shapes and types (the fakes below), never into them. Results have shapes that
follow from their arguments' shapes alone: sort makes room for the most rows that can be distinct
and says how many are, so that the graph of a backward pass is whole. Gradients of tables are dense.

Equal sorts of one graph are done once: the compiler merges calls of equal arguments.

Eager code does not come here: ops.py calls an implementation itself, which saves the dispatcher's
and the wrapper's time.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from experiments.kernels.checks import check_gather, check_indices, check_search
from experiments.kernels.interface import Kernel, Segments
from experiments.kernels.product_keys import read_sub_keys
from experiments.kernels.select import resolve_kernel

_LIBRARY = torch.library.Library("experiments", "DEF")
operators = torch.ops.experiments


def define(
    schema: str,
    run: Callable[..., Any],
    fake: Callable[..., Any],
    differentiated: tuple[Callable[..., Any], Callable[..., Any]] | None = None,
) -> None:
    """An operator of one implementation for all devices, and what it makes of fake tensors.

    differentiated: its backward pass, and what keeps for it what it needs, as
    torch.library.register_autograd takes them.
    """
    name = f"experiments::{schema.partition('(')[0]}"
    _LIBRARY.define(schema)
    _LIBRARY.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(name, fake, lib=_LIBRARY)
    if differentiated is not None:
        backward, context = differentiated
        torch.library.register_autograd(name, backward, setup_context=context, lib=_LIBRARY)


def _implementation(kernel: str, table: Tensor, dtype: torch.dtype | None = None) -> Kernel:
    found = resolve_kernel(kernel, table.device.type, dtype or table.dtype)
    assert found is not None, "the reference is plain torch, and no operator"
    return found


def _outside_autocast(device: torch.device) -> Any:
    """Products within a kernel keep their types, whoever calls it."""
    return torch.autocast(device.type, enabled=False)


def _dot(x: Tensor, table: Tensor, idx: Tensor, kernel: str) -> Tensor:
    x, table, idx = (t.contiguous() for t in (x, table, idx))
    check_gather("dot", table, idx, x, "x")
    check_indices(idx, len(table))
    with _outside_autocast(x.device):
        return _implementation(kernel, table).dot(x, table, idx)


def _weighted_sum(table: Tensor, idx: Tensor, weights: Tensor, kernel: str) -> Tensor:
    table, idx, weights = (t.contiguous() for t in (table, idx, weights))
    check_gather("weighted_sum", table, idx, weights, "weights")
    check_indices(idx, len(table))
    with _outside_autocast(table.device):
        return _implementation(kernel, table).weighted_sum(table, idx, weights)


def _search(
    halves: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None, kernel: str
) -> tuple[Tensor, ...]:
    check_search(halves.flatten(2), sub_keys, top_k, n_first, bias)
    with _outside_autocast(halves.device):
        implementation = _implementation(kernel, sub_keys)
        keys = sub_keys.contiguous()
        found = implementation.search(halves.contiguous(), keys, n_first, top_k, bias)
        return tuple(part.contiguous() for part in found)


def _sort(idx: Tensor, n_rows: int, dtype: torch.dtype, kernel: str) -> tuple[Tensor, ...]:
    implementation = _implementation(kernel, idx, dtype)
    segments = implementation.sort(idx.contiguous(), n_rows, False)
    n_distinct, most = len(segments.rows), _most(implementation, idx, n_rows)
    rows, offsets = idx.new_zeros(most), segments.offsets.new_zeros(most + 1)
    rows[:n_distinct], offsets[: n_distinct + 1] = segments.rows, segments.offsets
    # on the CPU: whoever launches the sums asks for it
    return rows, offsets, segments.order, torch.tensor([n_distinct])


def _table_sums(
    values: Tensor,
    rows: Tensor,
    offsets: Tensor,
    order: Tensor,
    n_distinct: Tensor,
    weights: Tensor,
    n_rows: int,
    dtype: torch.dtype,
    kernel: str,
) -> Tensor:
    n = int(n_distinct)
    segments = Segments(
        rows=rows[:n],
        offsets=offsets[: n + 1],
        order=order,
        n_rows=n_rows,
        n_columns=weights.shape[1],
    )
    with _outside_autocast(values.device):
        implementation = _implementation(kernel, values, dtype)
        return implementation.table_sums(values.contiguous(), segments, weights.contiguous(), dtype)


def _most(kernel: Kernel, idx: Tensor, n_rows: int) -> int:
    """Rows that a sort has room for: all of the table for a GPU, else as many as can differ."""
    return n_rows if kernel.name == "triton" else min(idx.numel(), n_rows)


def _fake_sort(idx: Tensor, n_rows: int, dtype: torch.dtype, kernel: str) -> tuple[Tensor, ...]:
    implementation = _implementation(kernel, idx, dtype)
    most, kind = _most(implementation, idx, n_rows), implementation.segment_dtype
    return (
        idx.new_empty(most),
        idx.new_empty(most + 1, dtype=kind),
        idx.new_empty(idx.numel(), dtype=kind),
        torch.empty(1, dtype=torch.int64),
    )


def _fake_search(
    halves: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None, kernel: str
) -> tuple[Tensor, ...]:
    shape = (*halves.shape[:2], top_k)
    indices = [halves.new_empty(shape, dtype=torch.int64) for _ in range(2)]
    return halves.new_empty(shape), *indices


def _fake_table_sums(
    values: Tensor,
    rows: Tensor,
    offsets: Tensor,
    order: Tensor,
    n_distinct: Tensor,
    weights: Tensor,
    n_rows: int,
    dtype: torch.dtype,
    kernel: str,
) -> Tensor:
    return values.new_empty(n_rows, values.shape[1], dtype=dtype)


def _table_gradient(
    values: Tensor, idx: Tensor, weights: Tensor, table: Tensor, kernel: str
) -> Tensor:
    """(N, D): each row's sum of weights_tj values_t."""
    n_rows, dtype = table.shape[0], table.dtype
    segments = operators.sort(idx, n_rows, dtype, kernel)
    return operators.table_sums(values, *segments, weights, n_rows, dtype, kernel)


def _gather_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kernel = inputs
    ctx.save_for_backward(*tensors)


def _dot_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, table, idx = ctx.saved_tensors
    grad_x = grad_table = None
    if ctx.needs_input_grad[0]:
        grad_x = operators.weighted_sum(table, idx, grad, ctx.kernel)
    if ctx.needs_input_grad[1]:
        grad_table = _table_gradient(x, idx, grad, table, ctx.kernel)
    return grad_x, grad_table, None, None


def _weighted_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    table, idx, weights = ctx.saved_tensors
    grad_table = grad_weights = None
    if ctx.needs_input_grad[2]:
        grad_weights = operators.dot(grad, table, idx, ctx.kernel)
    if ctx.needs_input_grad[0]:
        grad_table = _table_gradient(grad, idx, weights, table, ctx.kernel)
    return grad_table, None, grad_weights, None


def _search_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    halves, sub_keys, ctx.n_first, _, _, ctx.kernel = inputs
    _, first, second = output
    ctx.save_for_backward(halves, sub_keys, first, second)
    ctx.mark_non_differentiable(first, second)
    ctx.set_materialize_grads(False)


def _search_backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
    halves, sub_keys, first, second = ctx.saved_tensors
    if grad is None:
        return (None,) * 6
    table, rows, weights = read_sub_keys(sub_keys, ctx.n_first, first, second, grad)
    grad_halves = grad_keys = None
    if ctx.needs_input_grad[0]:
        sums = operators.weighted_sum(table, rows, weights, ctx.kernel)
        grad_halves = sums.view(halves.shape)
    if ctx.needs_input_grad[1]:
        values = halves.reshape(-1, halves.shape[-1])
        grad_keys = _table_gradient(values, rows, weights, table, ctx.kernel).view(sub_keys.shape)
    return grad_halves, grad_keys, None, None, None, None


define(
    "dot(Tensor x, Tensor table, Tensor idx, str kernel) -> Tensor",
    _dot,
    lambda x, table, idx, kernel: x.new_empty(idx.shape),
    (_dot_backward, _gather_context),
)
define(
    "weighted_sum(Tensor table, Tensor idx, Tensor weights, str kernel) -> Tensor",
    _weighted_sum,
    lambda table, idx, weights, kernel: weights.new_empty(idx.shape[0], table.shape[1]),
    (_weighted_sum_backward, _gather_context),
)
define(
    "search(Tensor halves, Tensor sub_keys, int n_first, int top_k, Tensor? bias, str kernel) "
    "-> (Tensor, Tensor, Tensor)",
    _search,
    _fake_search,
    (_search_backward, _search_context),
)
define(
    "sort(Tensor idx, int n_rows, ScalarType dtype, str kernel) "
    "-> (Tensor, Tensor, Tensor, Tensor)",
    _sort,
    _fake_sort,
)
define(
    "table_sums(Tensor values, Tensor rows, Tensor offsets, Tensor order, Tensor n_distinct, "
    "Tensor weights, int n_rows, ScalarType dtype, str kernel) -> Tensor",
    _table_sums,
    _fake_table_sums,
)
