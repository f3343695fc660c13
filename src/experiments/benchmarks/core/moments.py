"""Adam's moments of tables, and the optimizers that share them."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.core.loop import OPTIM
from experiments.benchmarks.core.shapes import type_name
from experiments.config.constraints import KernelName
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.optim.adamw import MOMENTS
from experiments.optim.groups import optimizers
from experiments.optim.optimizer import GroupedOptimizer
from experiments.optim.row_adamw import RowAdamW

_BETAS, _EPS = (0.9, 0.95), 1e-8
_LR = 1e-6  # so small that thousands of steps leave the routing as it is


class Moments:
    """Adam's two moments of tables, shared by all optimizers of a comparison: only their size and
    type matter to its speed, and tables of gigabytes have two of each.
    """

    def __init__(self, tables: Sequence[nn.Parameter], huge_pages: bool) -> None:
        self.tables, self.huge_pages = tuple(tables), huge_pages
        self._made: dict[torch.dtype, list[dict[str, Tensor]]] = {}

    def of(self, dtype: torch.dtype) -> list[dict[str, Tensor]]:
        """A table's moments each, zero and resident."""
        if dtype not in self._made:
            self._made[dtype] = [
                {name: self._zeros(t, dtype) for name in MOMENTS} for t in self.tables
            ]
        return self._made[dtype]

    def _zeros(self, table: Tensor, dtype: torch.dtype) -> Tensor:
        moment = torch.empty_like(table, dtype=dtype, requires_grad=False)
        if self.huge_pages:
            use_huge_pages(moment)
        return moment.zero_()

    def adamw(self) -> torch.optim.AdamW:
        """torch's, fused; its moments have the table's type."""
        optimizer = torch.optim.AdamW(
            self.tables, lr=_LR, betas=_BETAS, eps=_EPS, weight_decay=0.0, fused=True
        )
        for table, moments in zip(self.tables, self.of(self.tables[0].dtype)):
            step = torch.zeros((), device=table.device)
            optimizer.state[table] = {"step": step, **moments}
        return optimizer

    def row_adamw(
        self, way: str, execution: Execution, dtype: torch.dtype = torch.float32
    ) -> GroupedOptimizer:
        """Ours; way: rows or fused. dtype: of the moments."""
        how: dict[str, Any] = {"table_gradient": way, "table_state": type_name(dtype)}
        among = optimizers(replace(OPTIM, **how), execution)
        by = next(one for one in among if isinstance(one, RowAdamW))
        group = {"lr": _LR, "weight_decay": 0.0, "betas": _BETAS, "eps": _EPS}
        optimizer = GroupedOptimizer([{"by": by, "params": list(self.tables), **group}])
        for table, moments in zip(self.tables, self.of(dtype)):
            optimizer.state[table] = {"step": torch.zeros(()), **moments}
        return optimizer

    def way(self, kernel: KernelName, way: str) -> tuple[Execution, torch.optim.Optimizer]:
        """How layers are to make the tables' gradient, and what steps them: dense, rows, fused."""
        how = Execution(kernel=kernel, gradient="dense" if way == "dense" else "rows")
        if way == "dense":
            return how, self.adamw()
        optimizer = self.row_adamw(way, how)
        return (replace(how, update=optimizer.update) if way == "fused" else how), optimizer

    def sparse_adam(self) -> torch.optim.SparseAdam:
        """torch's, for sparse gradients."""
        optimizer = torch.optim.SparseAdam(self.tables, lr=_LR, betas=_BETAS, eps=_EPS)
        for table, moments in zip(self.tables, self.of(self.tables[0].dtype)):
            optimizer.state[table] = {"step": 0, **moments}
        return optimizer
