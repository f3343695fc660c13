"""AdamW of expert tables by rows: those that were not retrieved are not touched.

Three ways for a table (optim.table_gradient):

dense   an (N, D) gradient, and the optimizer as for any matrix. By AdamW a row goes on moving by
        its momentum, and decays, in steps that don't retrieve it.
rows    a sparse gradient of the retrieved rows, and a lazy AdamW: a row that is not retrieved keeps
        its weights and both moments as they are, as with torch.optim.SparseAdam. Bias is corrected
        by the table's steps, those that retrieved any of its rows. The two are different
        optimizers; they agree while every row is retrieved in every step.
fused   the same steps as rows, taken in the backward pass, so that no gradient is held. What needs
        the whole gradient first (clipping, adding up micro-batches, averaging over ranks) can't be.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.kernels.checks import check_rows
from experiments.kernels.interface import AdamWStep, Kernel, Segments
from experiments.kernels.ops import PLAIN, Execution, row_adamw
from experiments.optim.adamw import MOMENTS, AdamWConfig
from experiments.optim.gradients import coalesced, find_kernel
from experiments.optim.optimizer import State, Trained


@dataclass(frozen=True, kw_only=True)
class RowAdamW(AdamWConfig):
    """AdamW of the retrieved rows, for all tables with gradients of rows.

    table_state: the type of moments; bfloat16 is rounded stochastically. execution: the kernel that
    steps rows, and who has the tables' columns between them.
    """

    takes_rows = True
    execution: Execution = PLAIN

    def takes(self, parameter: Trained) -> bool:
        return parameter.by_rows

    def moments(self, parameter: Tensor) -> State:
        dtype = getattr(torch, self.table_state)
        moments = {name: torch.zeros_like(parameter, dtype=dtype) for name in MOMENTS}
        return {"step": torch.zeros(()), **moments}

    def step(
        self, parameters: Sequence[Tensor], states: Sequence[State], group: Mapping[str, Any]
    ) -> None:
        """Raises ValueError for a dense gradient."""
        if self.table_gradient == "fused":
            return  # stepped in the backward pass
        for table, state in zip(parameters, states, strict=True):
            assert table.grad is not None
            if not table.grad.is_sparse:
                raise ValueError(
                    "a table that steps by rows has a dense gradient; set the layer's "
                    "execution to Execution(gradient='rows')"
                )
            gradient = coalesced(table.grad)
            kernel = find_kernel(self.execution, table)
            rows, values = gradient.indices()[0], gradient.values()
            hyper = self._adamw_step(table, state, group)
            row_adamw(kernel, table, _moments(state), rows, values, hyper)

    def step_rows(
        self,
        table: Tensor,
        state: State,
        group: Mapping[str, Any],
        kernel: Kernel,
        pairs: tuple[Tensor, Segments, Tensor],
    ) -> None:
        check_rows(table, _moments(state))
        hyper = self._adamw_step(table, state, group)
        kernel.row_adamw_of_sums(table, _moments(state), *pairs, hyper)

    def _adamw_step(self, table: Tensor, state: State, group: Mapping[str, Any]) -> AdamWStep:
        state["step"] += 1
        columns, width = self.execution.columns, table.shape[1]
        return AdamWStep(
            lr=float(group["lr"]),
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            eps=group["eps"],
            weight_decay=group["weight_decay"],
            step=int(state["step"]),
            first_column=0 if columns is None else columns.rank * width,
            width=0 if columns is None else columns.size * width,
        )


def _moments(state: State) -> tuple[Tensor, Tensor]:
    return state["exp_avg"], state["exp_avg_sq"]
