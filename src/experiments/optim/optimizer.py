"""AdamW for models with expert tables: rows that were not retrieved are not touched.

Three ways for a table (optim.table_gradient):

dense   an (N, D) gradient and torch's AdamW. A row goes on moving by its momentum, and decays, in
        steps that don't retrieve it.
rows    a sparse gradient of the retrieved rows, and a lazy AdamW: a row that is not retrieved keeps
        its weights and both moments as they are, as with torch.optim.SparseAdam. Bias is corrected
        by the table's steps, those that retrieved any of its rows. The two are different
        optimizers; they agree while every row is retrieved in every step.
fused   the same steps as rows, taken in the backward pass, so that no gradient is held. What needs
        the whole gradient first (clipping, adding up micro-batches, averaging over ranks) can't be.

Matrices of the backbone may step by Muon instead (optim.matrices, muon.py).
"""

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.kernels.checks import check_rows
from experiments.kernels.interface import AdamWStep, Columns, Kernel, Segments
from experiments.kernels.ops import Execution, row_adamw
from experiments.kernels.torch_kernels import TorchKernel
from experiments.kernels.workspace import use_huge_pages
from experiments.optim.muon import step_matrices

MOMENTS = ("exp_avg", "exp_avg_sq")


class RowAdamW(torch.optim.AdamW):
    """torch's fused AdamW; groups with rows="rows" or "fused" step their retrieved rows alone, and
    those with momentum by Muon.

    state_dtype: of these groups' moments, float32 or bfloat16 (then rounded stochastically).
    execution: the kernel that steps rows, and who has the tables' columns between them.
    """

    def __init__(
        self,
        groups: Iterable[dict[str, Any]],
        *,
        betas: tuple[float, float],
        eps: float,
        state_dtype: torch.dtype = torch.float32,
        execution: Execution | None = None,
    ) -> None:
        groups = [{"rows": None, **group} for group in groups]
        super().__init__(groups, lr=1e-3, betas=betas, eps=eps, fused=True)
        self.state_dtype = state_dtype
        self.execution = execution or Execution()
        self._one = torch.ones(())
        for group in (*self._row_groups(), *self._matrix_groups()):
            group["fused"] = False  # torch's; ours are never its

    def _row_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if group["rows"] is not None]

    def _matrix_groups(self) -> list[dict[str, Any]]:
        return [group for group in self.param_groups if "momentum" in group]

    def _group_of(self, table: Tensor) -> dict[str, Any] | None:
        """Asked for each time: loading a state replaces the groups."""
        for group in self._row_groups():
            if any(table is other for other in group["params"]):
                return group
        return None

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One step of every group. Raises ValueError for a row group's dense gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with torch.no_grad():
            for group in self.param_groups:
                if group["rows"] is not None:
                    for table in group["params"]:
                        self._step_table(table, group)
                elif "momentum" in group:
                    step_matrices(group["params"], self.state, group)
                else:
                    self._step_whole(group)
        return loss

    def _step_whole(self, group: dict[str, Any]) -> None:
        """torch's fused AdamW of a group, by its own two calls: torch spends five times as long on
        what it looks up around them. Its whole way makes the moments, and takes what is mixed.
        """
        stepped = [parameter for parameter in group["params"] if parameter.grad is not None]
        states = [self.state[parameter] for parameter in stepped]
        kinds = {(parameter.device, parameter.dtype) for parameter in stepped}
        if not all(states) or len(kinds) > 1:
            every, self.param_groups = self.param_groups, [group]
            try:
                super().step()
            finally:
                self.param_groups = every
        elif stepped:
            steps = [state["step"] for state in states]
            if steps[0].is_cpu:  # of a number torch would make a tensor for each of them
                torch._foreach_add_(steps, self._one, alpha=1)
            else:
                torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                stepped,
                [parameter.grad for parameter in stepped],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _step_table(self, table: Tensor, group: dict[str, Any]) -> None:
        if group["rows"] == "fused" or table.grad is None:
            return  # stepped in the backward pass, or not retrieved from
        if not table.grad.is_sparse:
            raise ValueError(
                "a table that steps by rows has a dense gradient; set the layer's "
                "execution to Execution(gradient='rows')"
            )
        gradient = coalesced(table.grad)
        state = self._state(table)
        state["step"] += 1
        kernel = _kernel(self.execution, table)
        moments = (state["exp_avg"], state["exp_avg_sq"])
        rows, values = gradient.indices()[0], gradient.values()
        hyper = self._adamw_step(group, int(state["step"]), table)
        row_adamw(kernel, table, moments, rows, values, hyper)

    @torch.no_grad()
    def update(
        self, kernel: Kernel, table: Tensor, values: Tensor, segments: Segments, weights: Tensor
    ) -> None:
        """Execution.update of the fused way: this step's rows, in the backward pass."""
        state = self._state(table)
        moments = (state["exp_avg"], state["exp_avg_sq"])
        group = self._group_of(table)
        assert group is not None
        state["step"] += 1
        hyper = self._adamw_step(group, int(state["step"]), table)
        check_rows(table, moments)
        kernel.row_adamw_of_sums(table, moments, values, segments, weights, hyper)
        # a second use of the table in this backward pass is then an error, as it should be
        torch.autograd.graph.increment_version(table)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """torch's, which casts moments to their parameter's type; these keep their own."""
        super().load_state_dict(state_dict)
        names = [name for group in state_dict["param_groups"] for name in group["params"]]
        parameters = [p for group in self.param_groups for p in group["params"]]
        for name, parameter in zip(names, parameters, strict=True):
            saved = state_dict["state"].get(name)
            if self._group_of(parameter) is None or not saved:
                continue
            for moment in MOMENTS:
                restored = saved[moment].to(parameter.device, self.state_dtype, copy=True)
                use_huge_pages(restored)
                self.state[parameter][moment] = restored

    def _adamw_step(self, group: dict[str, Any], step: int, table: Tensor) -> AdamWStep:
        columns, width = self.execution.columns, table.shape[1]
        return AdamWStep(
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            step=step,
            first_column=0 if columns is None else columns.rank * width,
            width=0 if columns is None else columns.size * width,
        )

    def _state(self, table: Tensor) -> dict[str, Any]:
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros(())
            for name in MOMENTS:
                state[name] = torch.zeros_like(table, dtype=self.state_dtype)
                use_huge_pages(state[name])
        return state


def _kernel(execution: Execution, table: Tensor) -> Kernel:
    return execution.on(table) or TorchKernel()


def coalesced(gradient: Tensor, execution: Execution | None = None) -> Tensor:
    """A sparse (N, D) gradient with each row once, in ascending order."""
    if gradient.is_coalesced():
        return gradient
    rows, values = gradient._indices()[0], gradient._values()
    if len(rows) < 2 or bool((rows[1:] > rows[:-1]).all()):
        return _sparse(rows, values, gradient.shape)
    kernel = _kernel(execution or Execution(), values)
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
        norm = _norm_of(wide, short)
        if columns is not None:
            wide_here, short_here = _by_width(of_tables)
            here = _norm_of(wide_here, short_here) if of_tables else norm.new_zeros(())
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


def _norm_of(wide: list[Tensor], short: list[Tensor]) -> Tensor:
    norms = [torch.linalg.vector_norm(t, dtype=torch.float32) for t in short]
    return _total_norm([*wide, *norms])


def _total_norm(tensors: list[Tensor]) -> Tensor:
    """torch's, which first sorts them by device and type."""
    if len({(t.device, t.dtype) for t in tensors}) != 1:
        return nn.utils.get_total_norm(tensors)
    return torch.linalg.vector_norm(torch.stack(torch._foreach_norm(tensors)))
