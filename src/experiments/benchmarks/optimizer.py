"""One AdamW step of a table: all of it, or its retrieved rows.

torch's over all of it, ours over the rows that were retrieved.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial

import torch
from torch import Tensor, nn

from experiments.benchmarks.core.arguments import add_comparison
from experiments.benchmarks.core.comparing import run_comparison
from experiments.benchmarks.core.memory import release
from experiments.benchmarks.core.moments import Moments
from experiments.benchmarks.core.report import Comparison
from experiments.benchmarks.core.shapes import Settings, Shape, type_name
from experiments.benchmarks.core.timing import Contender
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages

WHOLE = "AdamW, whole table"
_SLOW_ROUNDS = 2  # SparseAdam takes seconds


def arguments(parser: ArgumentParser) -> None:
    add_comparison(parser, {"d": "256", "n_experts": "1048576", "tokens": "1024,4096"})


def run(options: Namespace) -> None:
    run_comparison(options, sections)


def sections(shapes: Sequence[Shape], settings: Settings) -> Iterator[Comparison]:
    """A table of each width and size, and the rows that each number of tokens retrieves."""
    for shape in shapes:
        torch.manual_seed(0)
        yield _compare(shape, settings)
        release(settings.device)


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
                make=lambda: optimizer.step,
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
    timings = settings.compare(contenders, shape.describe())
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
