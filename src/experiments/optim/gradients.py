"""Gradients of tables, of which rows are added up, and the norm of all gradients, clipped."""

from collections.abc import Collection, Iterable

import torch
from torch import Tensor, nn

from experiments.kernels.interface import Columns, Kernel
from experiments.kernels.ops import Execution
from experiments.kernels.torch_kernels import TorchKernel


def find_kernel(execution: Execution, table: Tensor) -> Kernel:
    """Implementation for a table like this one, where the reference has none."""
    return execution.on(table) or TorchKernel()


def coalesced(gradient: Tensor, execution: Execution | None = None) -> Tensor:
    """A sparse (N, D) gradient with each row once, in ascending order."""
    if gradient.is_coalesced():
        return gradient
    rows, values = gradient._indices()[0], gradient._values()
    if len(rows) < 2 or bool((rows[1:] > rows[:-1]).all()):
        return _sparse(rows, values, gradient.shape)
    kernel = find_kernel(execution or Execution(), values)
    segments = kernel.sort(rows.view(-1, 1), gradient.shape[0])
    wide = values.to(torch.promote_types(values.dtype, torch.float32))
    ones = wide.new_ones(len(rows), 1)
    sums = kernel.row_sums(wide.contiguous(), segments, ones, values.dtype)
    return _sparse(segments.rows, sums, gradient.shape)


def _sparse(rows: Tensor, values: Tensor, shape: torch.Size) -> Tensor:
    return torch.sparse_coo_tensor(
        rows.unsqueeze(0), values, shape, check_invariants=False, is_coalesced=True
    )


def keep_coalesced(table: nn.Parameter, execution: Execution) -> None:
    """Lets each backward pass end with a gradient of distinct rows, so that those of micro-batches
    and of layers that share a table add up to no more than the rows they retrieve.

    The gradient of a table's one use has them already. Autograd forgets that when it stores it, and
    to look would be to wait for a GPU.
    """
    whole = False

    def look(gradient: Tensor | None) -> None:  # None: the table steps in the backward pass
        nonlocal whole
        whole = gradient is not None and gradient.is_sparse and gradient.is_coalesced()
        whole = whole and table.grad is None

    def merge(parameter: Tensor) -> None:
        gradient = parameter.grad
        if gradient is None or not gradient.is_sparse:
            return
        if whole:
            rows, values = gradient._indices()[0], gradient._values()
            parameter.grad = _sparse(rows, values, gradient.shape)
        else:
            parameter.grad = coalesced(gradient, execution)

    table.register_hook(look)
    table.register_post_accumulate_grad_hook(merge)


def add_replicas(tables: Iterable[nn.Parameter], columns: Columns) -> None:
    """Makes the gradients of these tables' columns the sum of those of all processes that have the
    same ones. Of gradients of rows, the rows are those that any of them has. A table that is given
    twice, as two layers', is one.
    """
    for table in {id(table): table for table in tables}.values():
        gradient = table.grad
        if gradient is None:
            continue
        if not gradient.is_sparse:
            columns.add_replicas(gradient)
            continue
        own = coalesced(gradient)
        rows = columns.rows_of_replicas(own.indices()[0], len(table))
        wide = torch.promote_types(own.dtype, torch.float32)
        values = own.values().new_zeros(len(rows), table.shape[1], dtype=wide)
        values[torch.searchsorted(rows, own.indices()[0])] = own.values().to(wide)
        columns.add_replicas(values)
        table.grad = _sparse(rows, values.to(own.dtype), gradient.shape)


def clip_gradients(
    parameters: Iterable[nn.Parameter],
    max_norm: float,
    columns: Columns | None = None,
    tables: Collection[nn.Parameter] = (),
) -> Tensor:
    """Scales all gradients together to a norm of at most max_norm; returns what it was.

    columns: the processes that have the columns of these tables between them. All other gradients
    are the same on each of them, and so is the norm, to the bit.

    torch.nn.utils.clip_grad_norm_ to the bit for float32, and for sparse gradients too. Those in
    bfloat16 are summed and scaled in float32: torch rounds each one's norm, and the scale, to 8
    bits. Where reading a number costs nothing (a CPU), a scale of 1 is not multiplied by.
    """
    own: set[int] = set() if columns is None else {id(table) for table in tables}
    with torch.no_grad():
        tensors: list[Tensor] = []
        of_tables: list[Tensor] = []
        for p in parameters:
            gradient = p.grad
            if gradient is None:
                continue
            if gradient.is_sparse:
                p.grad = coalesced(gradient)  # what is scaled below is what the optimizer gets
                gradient = p.grad.values()
            (of_tables if id(p) in own else tensors).append(gradient)
        wide, short = _by_width(tensors)
        norm = _joint_norm(wide, short)
        if columns is not None:
            wide_here, short_here = _by_width(of_tables)
            here = _joint_norm(wide_here, short_here) if of_tables else norm.new_zeros(())
            norm = (norm.square() + columns.total(here.square())).sqrt()
            wide, short = wide + wide_here, short + short_here
        on_cpu = norm.device.type == "cpu"
        if not (wide or short) or (on_cpu and float(norm) < 0.99 * max_norm - 1e-5):
            return norm  # whatever is rounded below, the scale is 1
        scale = torch.clamp(max_norm / (norm + 1e-6), max=1.0)
        if not on_cpu or not bool(scale == 1):
            if wide:
                torch._foreach_mul_(wide, scale.to(wide[0].device))
            for t in short:
                t.copy_(t.float().mul_(scale.to(t.device)))
    return norm


def _by_width(tensors: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Those of 32 bits and more, and those of 16."""
    halves = torch.bfloat16, torch.float16
    return [t for t in tensors if t.dtype not in halves], [t for t in tensors if t.dtype in halves]


def _joint_norm(wide: list[Tensor], short: list[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(t, dtype=torch.float32) for t in short]
    return _total_norm([*wide, *norms])


def _total_norm(tensors: list[Tensor]) -> Tensor:
    """torch's, which first sorts them by device and type."""
    if len({(t.device, t.dtype) for t in tensors}) != 1:
        return nn.utils.get_total_norm(tensors)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
