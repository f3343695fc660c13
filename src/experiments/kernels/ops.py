"""Differentiable kernels that PKM and PEER are made of.

    gather_dot(x_TD, table_ND, idx_TJ) -> TJ    x_t . table[idx_tj]
    gather_sum(table_ND, idx_TJ, w_TJ) -> TD    sum_j w_tj table[idx_tj]
    product_key_topk(queries_THQ, sub_keys, top_k) -> scores and indices THK
    row_adamw(kernel, table_ND, moments, rows_R, gradient_RD, step)    in place, no gradient

Whatever runs, arguments that don't go together are refused by name (checks.py).
Backward passes go by segments: the pairs of one row together, in one order, so that gradients are
repeatable to the bit. What a table's gradient becomes is `Execution.gradient`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

import torch
from torch import Tensor

from experiments.config.constraints import KernelName
from experiments.kernels import reference
from experiments.kernels.checks import (
    check_gather,
    check_indices,
    check_rows,
    check_search,
    check_share,
)
from experiments.kernels.interface import AdamWStep, Columns, Kernel, Retrieved, Segments
from experiments.kernels.once import once
from experiments.kernels.operators import operators
from experiments.kernels.product_keys import both_sets, read_sub_keys
from experiments.kernels.select import resolve_kernel
from experiments.kernels.uncompiled import uncompiled

_Method = TypeVar("_Method", bound=Callable[..., Any])
Indices = Tensor | Retrieved  # of rows, (T, J), as Execution.retrieved gives them
RowUpdate = Callable[[Kernel, Tensor, Tensor, Segments, Tensor], None]
_once = once("a kernel of tables, unlike kernel=reference,")


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a layer's tables are read and what its backward pass does to them.

    kernel: an implementation (select.py). gradient: dense: an (N, D) tensor, which any optimizer
    takes; rows: a coalesced sparse tensor of the retrieved rows. update: called in the backward
    pass as update(kernel, table, values, segments, weights) in place of a gradient, to step the
    retrieved rows by row_sums(values, segments, weights); the table then gets no gradient.
    columns: the processes that have the tables' columns between them, this one's being all that a
    table given to gather_dot and gather_sum has; None: tables are whole. Then activations are as
    wide as the whole table, and its gradient is that of the mean of all processes' losses, of
    which there are the addends of the group's tokens. The reference has no such form.
    """

    kernel: KernelName = "auto"
    gradient: Literal["dense", "rows"] = "dense"
    update: RowUpdate | None = None
    columns: Columns | None = None

    def on(self, tensor: Tensor) -> Kernel | None:
        """Implementation for a table like this one; None for the reference."""
        return resolve_kernel(self.kernel, tensor.device.type, tensor.dtype)

    @property
    def compiles(self) -> bool:
        """Whether the backward pass can be part of a compiled graph: a tensor comes out of it, and
        nothing is stepped in it.
        """
        return self.gradient == "dense" and self.update is None and self.columns is None

    def retrieved(self, idx: Tensor, table: Tensor) -> Retrieved | Tensor:
        """idx, to be shared by the gathers of tables like this one. As it is for the reference, and
        while a graph is compiled: the compiler sees to it that equal indices are sorted once. Of
        columns, the indices of the group's tokens.
        """
        if self.columns is not None:
            # int32: half of what is sent
            idx = self.columns.all_tokens(idx.int()).long()
            return self._retrieved(idx, table)
        if self.kernel == "reference" or torch.compiler.is_compiling():
            return idx
        return self._retrieved(idx, table)

    def _retrieved(self, idx: Tensor, table: Tensor) -> Retrieved:
        kernel = self.on(table)
        assert kernel is not None
        check_indices(idx, table.shape[0])
        # a sparse gradient has the retrieved rows alone
        distinct = self.gradient == "rows" and self.update is None
        return Retrieved(idx, table.shape[0], kernel, distinct)

    def _made_for(self, idx: Tensor | Retrieved, table: Tensor) -> Kernel | None:
        """Kernel that a Retrieved has to agree with; a compiler can't follow this."""
        return self.on(table) if isinstance(idx, Retrieved) else None


PLAIN = Execution()


def gather_dot(
    x: Tensor, table: Tensor, idx: Tensor | Retrieved, execution: Execution = PLAIN
) -> Tensor:
    """(T, D) x, (N, D) table, (T, J) int64 idx to the (T, J) products x_t . table[idx_tj].

    The result is float32, or float64 where the table is. Raises TypeError and ValueError.
    """
    columns = execution.columns
    if columns is not None:
        idx = _of_all(idx, table, execution)
        check_share("gather_dot", len(x), len(idx.idx), columns.size)
        x = idx.take_columns(x, columns)
    check_gather("gather_dot", table, idx, x, "x", execution._made_for(idx, table))
    wide = _wide(x, table)
    if execution.kernel == "reference":
        return reference.gather_dot(wide, table.to(wide.dtype), _plain_indices(idx, table))
    if torch.compiler.is_compiling() and execution.compiles:
        return operators.dot(wide, table, idx, execution.kernel)
    dots = _gather_dot(wide, table, idx, execution)
    return dots if columns is None else columns.summed(dots)


def gather_sum(
    table: Tensor, idx: Tensor | Retrieved, weights: Tensor, execution: Execution = PLAIN
) -> Tensor:
    """(N, D) table, (T, J) int64 idx and weights to the (T, D) sums of weighted rows.

    The result is float32, or float64 where the table is. Raises TypeError and ValueError.
    """
    columns = execution.columns
    if columns is not None:
        idx = _of_all(idx, table, execution)
        check_share("gather_sum", len(weights), len(idx.idx), columns.size)
        weights = columns.all_tokens(weights)
    check_gather("gather_sum", table, idx, weights, "weights", execution._made_for(idx, table))
    wide = _wide(weights, table)
    if execution.kernel == "reference":
        return reference.gather_sum(table.to(wide.dtype), _plain_indices(idx, table), wide)
    if torch.compiler.is_compiling() and execution.compiles:
        return operators.weighted_sum(table, idx, wide, execution.kernel)
    sums = _gather_sum(table, idx, wide, execution)
    return sums if columns is None else columns.to_tokens(sums)


def product_key_topk(
    queries: Tensor,
    sub_keys: Tensor,
    top_k: int,
    execution: Execution = PLAIN,
    n_first: int | None = None,
    bias: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Best top_k product keys of each query: (T, H, K) scores, best first, and expert indices.

    queries (T, H, d_key), the two halves one after the other; sub_keys (2, S, d_key / 2) shared by
    the heads, or (H, 2, S, d_key / 2), or with n_first, two sets of different sizes one after the
    other (product_keys.both_sets). Expert i is the pair (i // S2, i % S2). bias (S1,), which gets
    no gradient, is added to the scores of the first half.
    Equal to a scan over all N keys; among tied scores any choice is a right one. Raises TypeError
    and ValueError.
    """
    check_search(queries, sub_keys, top_k, n_first, bias)
    if execution.kernel == "reference":
        return reference.product_key_topk(queries, sub_keys, top_k, n_first, bias)
    halves = _wide(queries, sub_keys).unflatten(-1, (2, -1)).contiguous()
    grouped, n_first = both_sets(sub_keys, n_first)
    # kernels take them alike: of a model made bfloat16, say
    grouped = grouped.contiguous().to(halves.dtype)
    if bias is not None:
        bias = bias.to(halves.dtype).contiguous()
    if torch.compiler.is_compiling():
        found = operators.search(halves, grouped, n_first, top_k, bias, execution.kernel)
    else:
        found = _Search.apply(halves, grouped, n_first, top_k, bias, execution.on(sub_keys))
    scores, first, second = found
    return scores, torch.add(second, first, alpha=grouped.shape[1] - n_first)


def row_adamw(
    kernel: Kernel,
    table: Tensor,
    moments: tuple[Tensor, Tensor],
    rows: Tensor,
    gradient: Tensor,
    step: AdamWStep,
) -> None:
    """Steps the given (R,) distinct rows of an (N, D) table and of its moments by their (R, D)
    gradients, in place. Raises TypeError and ValueError.
    """
    check_rows(table, moments, rows, gradient)
    check_indices(rows, table.shape[0])
    kernel.row_adamw(table, moments, rows.contiguous(), gradient.contiguous(), step)


# Not compiled, but run between two graphs: what comes of a sparse gradient, or of a step in the
# backward pass, is nothing that a graph returns.


@uncompiled
def _gather_dot(x: Tensor, table: Tensor, idx: Tensor | Retrieved, execution: Execution) -> Tensor:
    retrieved = idx if isinstance(idx, Retrieved) else execution._retrieved(idx, table)
    return _GatherDot.apply(x.contiguous(), table, retrieved, execution)


@uncompiled
def _gather_sum(
    table: Tensor, idx: Tensor | Retrieved, weights: Tensor, execution: Execution
) -> Tensor:
    retrieved = idx if isinstance(idx, Retrieved) else execution._retrieved(idx, table)
    return _GatherSum.apply(table, retrieved, weights.contiguous(), execution)


def _of_all(idx: Tensor | Retrieved, table: Tensor, execution: Execution) -> Retrieved:
    """Indices of the group's tokens, which a layer with two tables has sent already."""
    found = idx if isinstance(idx, Retrieved) else execution.retrieved(idx, table)
    assert isinstance(found, Retrieved), "of columns they always are"
    return found


def _plain_indices(idx: Tensor | Retrieved, table: Tensor) -> Tensor:
    """As the reference takes them, which reads -1 as the last row, as torch does."""
    plain = idx.idx if isinstance(idx, Retrieved) else idx
    check_indices(plain, table.shape[0])
    return plain


def _wide(activation: Tensor, table: Tensor) -> Tensor:
    """Activations as the kernels take them: under autocast they come in bfloat16."""
    return activation.to(torch.float64 if table.dtype == torch.float64 else torch.float32)


def table_gradient(
    table: Tensor, values: Tensor, retrieved: Retrieved, weights: Tensor, execution: Execution
) -> Tensor | None:
    """row_sums in the form that the execution asks for."""
    kernel, segments = retrieved.kernel, retrieved.segments
    if execution.columns is not None:  # of the mean of all processes' losses
        weights = weights / execution.columns.n_processes
    if execution.update is not None:
        execution.update(kernel, table, values, segments, weights)
        return None
    if execution.gradient == "dense":
        return kernel.table_sums(values, segments, weights, table.dtype)
    sums = kernel.row_sums(values, segments, weights, table.dtype)
    return torch.sparse_coo_tensor(
        segments.rows.unsqueeze(0),
        sums,
        table.shape,
        check_invariants=False,
        is_coalesced=True,
    )


def _outside_autocast(method: _Method) -> _Method:
    """A Function's forward or backward whose products keep their types, whoever calls it."""

    def plain(ctx: Any, *arguments: Any) -> Any:
        tensors = (a.device.type for a in arguments if isinstance(a, Tensor))
        with torch.autocast(next(tensors, "cpu"), enabled=False):
            return method(ctx, *arguments)

    return cast(_Method, plain)


class _GatherDot(torch.autograd.Function):
    @staticmethod
    @_outside_autocast
    def forward(
        ctx: Any, x: Tensor, table: Tensor, retrieved: Retrieved, execution: Execution
    ) -> Tensor:
        ctx.save_for_backward(x, table)
        ctx.retrieved, ctx.execution = retrieved, execution
        return retrieved.kernel.dot(x, table, retrieved.idx)

    @staticmethod
    @_once
    @_outside_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, table = ctx.saved_tensors
        retrieved, grad = ctx.retrieved, grad.contiguous()
        grad_x = grad_table = None
        if ctx.needs_input_grad[0]:  # first: an update changes the table
            grad_x = retrieved.kernel.weighted_sum(table, retrieved.idx, grad)
        if ctx.needs_input_grad[1]:
            grad_table = table_gradient(table, x, retrieved, grad, ctx.execution)
        return grad_x, grad_table, None, None


class _GatherSum(torch.autograd.Function):
    @staticmethod
    @_outside_autocast
    def forward(
        ctx: Any, table: Tensor, retrieved: Retrieved, weights: Tensor, execution: Execution
    ) -> Tensor:
        ctx.save_for_backward(table, weights)
        ctx.retrieved, ctx.execution = retrieved, execution
        return retrieved.kernel.weighted_sum(table, retrieved.idx, weights)

    @staticmethod
    @_once
    @_outside_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        table, weights = ctx.saved_tensors
        retrieved, grad = ctx.retrieved, grad.contiguous()
        grad_table = grad_weights = None
        if ctx.needs_input_grad[2]:
            grad_weights = retrieved.kernel.dot(grad, table, retrieved.idx)
        if ctx.needs_input_grad[0]:
            grad_table = table_gradient(table, grad, retrieved, weights, ctx.execution)
        return grad_table, None, grad_weights, None


class _Search(torch.autograd.Function):
    """Only the k winning scores of √N have gradients, so their backward pass is two gathers."""

    @staticmethod
    @_outside_autocast
    def forward(
        ctx: Any,
        halves: Tensor,
        sub_keys: Tensor,
        n_first: int,
        top_k: int,
        bias: Tensor | None,
        kernel: Kernel,
    ) -> tuple[Tensor, ...]:
        scores, first, second = kernel.search(halves, sub_keys, n_first, top_k, bias)
        ctx.save_for_backward(halves, sub_keys, first, second)
        ctx.kernel, ctx.n_first = kernel, n_first
        ctx.mark_non_differentiable(first, second)
        ctx.set_materialize_grads(False)  # zeros as gradients of indices, never looked at
        return scores, first, second

    @staticmethod
    @_once
    @_outside_autocast
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        halves, sub_keys, first, second = ctx.saved_tensors
        if grad is None:
            return (None,) * 6
        table, rows, weights = read_sub_keys(sub_keys, ctx.n_first, first, second, grad)
        grad_halves = grad_keys = None
        if ctx.needs_input_grad[0]:
            grad_halves = ctx.kernel.weighted_sum(table, rows, weights).view_as(halves)
        if ctx.needs_input_grad[1]:
            segments = ctx.kernel.sort(rows, len(table), False)
            values = halves.view(-1, halves.shape[-1])
            sums = ctx.kernel.table_sums(values, segments, weights, sub_keys.dtype)
            grad_keys = sums.view_as(sub_keys)
        return grad_halves, grad_keys, None, None, None, None
