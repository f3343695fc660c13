"""One AdamW step of a table: torch's over all of it, ours over the rows that were retrieved."""

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from experiments.benchmarks.shapes import Settings, Shape, type_name
from experiments.benchmarks.tables import Comparison, Report
from experiments.benchmarks.timing import Contender, compare
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import WORKSPACE, use_huge_pages
from experiments.optim.optimizer import MOMENTS, RowAdamW

WHOLE = "AdamW, whole table"
_BETAS, _EPS = (0.9, 0.95), 1e-8
_LR = 1e-6  # so small that thousands of steps leave the routing as it is
_SLOW_ROUNDS = 2  # SparseAdam takes seconds


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
    ) -> RowAdamW:
        """Ours; way: rows or fused. dtype: of the moments."""
        group = {"params": list(self.tables), "rows": way, "lr": _LR, "weight_decay": 0.0}
        optimizer = RowAdamW(
            [group], betas=_BETAS, eps=_EPS, state_dtype=dtype, execution=execution
        )
        for table, moments in zip(self.tables, self.of(dtype)):
            optimizer.state[table] = {"step": torch.zeros(()), **moments}
        return optimizer

    def sparse_adam(self) -> torch.optim.SparseAdam:
        """torch's, for sparse gradients."""
        optimizer = torch.optim.SparseAdam(self.tables, lr=_LR, betas=_BETAS, eps=_EPS)
        for table, moments in zip(self.tables, self.of(self.tables[0].dtype)):
            optimizer.state[table] = {"step": 0, **moments}
        return optimizer


def run(shapes: Sequence[Shape], settings: Settings, report: Report) -> None:
    """A table of each width and size, and the rows that each number of tokens retrieves."""
    for shape in shapes:
        torch.manual_seed(0)
        report.add(_compare(shape, settings))
        WORKSPACE.release()


def _compare(shape: Shape, settings: Settings) -> Comparison:
    table = nn.Parameter(
        torch.randn(
            shape.n_experts, shape.d_model, device=settings.device, dtype=settings.table_dtype
        )
    )
    if settings.huge_pages:
        use_huge_pages(table)
    moments = Moments([table], settings.huge_pages)
    drawn = torch.randint(shape.n_experts, (shape.n_pairs,), device=settings.device)
    rows = drawn.unique()  # sorted
    whole = torch.randn_like(table)
    part = torch.sparse_coo_tensor(
        rows.unsqueeze(0), whole[rows], table.shape, is_coalesced=True, check_invariants=False
    )
    contenders, n_bytes = [], {}

    def add(name: str, optimizer: torch.optim.Optimizer, gradient: Tensor) -> None:
        state = optimizer.state[table]["exp_avg"]
        elements = len(gradient.values() if gradient.is_sparse else gradient) * shape.d_model
        # read: weight, gradient, both moments; written: all but the gradient
        each = 3 * table.itemsize + 4 * state.itemsize
        n_bytes[name] = each * elements
        slow = isinstance(optimizer, torch.optim.SparseAdam)
        contenders.append(
            Contender(
                name=name,
                call=optimizer.step,
                before=partial(setattr, table, "grad", gradient),
                baseline=None if name == WHOLE else WHOLE,
                max_rounds=_SLOW_ROUNDS if slow else None,
            )
        )

    add(WHOLE, moments.adamw(), whole)
    for kernel in settings.kernels:
        how = Execution(kernel=kernel, gradient="rows")
        for dtype in (torch.float32, torch.bfloat16):
            name = f"RowAdamW {kernel}, {type_name(dtype)} moments"
            add(name, moments.row_adamw("rows", how, dtype), part)
    add("SparseAdam", moments.sparse_adam(), part)
    what = f"optimizer, {shape.describe()}, {type_name(settings.table_dtype)}"
    timings = compare(
        contenders, rounds=settings.rounds, device=settings.device, label=shape.describe()
    )
    share = len(rows) / shape.n_experts
    return Comparison(
        title=what,
        shape=asdict(shape),
        timings=timings,
        columns={
            "GB moved": {t.name: n_bytes[t.name] / 1e9 for t in timings},
            "GB/s": {t.name: n_bytes[t.name] / 1e9 / t.median for t in timings},
        },
        notes=[
            f"{len(rows)} rows ({share:.1%}) are retrieved, drawn evenly: memory's worst case",
            "RowAdamW leaves the other rows' weights and moments as they are: another optimizer",
        ],
        facts={"n_distinct": len(rows), "bytes_moved": n_bytes},
    )
