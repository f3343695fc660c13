"""Triton's values against float64, and to the bit."""

import gc
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import isnan

import torch

from experiments.gpu.check import Check
from experiments.gpu.goals import NONE_DIFFERS, WITHIN_TOLERANCE
from experiments.gpu.job import Job
from experiments.gpu.kernel_checks import far_rows, large, small

WORTH = 90
SECONDS = 150

RUNS = 20  # of each case with the same inputs
_TOY_RUNS = 2


@dataclass
class _Found:
    """What was found of one kernel so far. worst: error over what is allowed, and where."""

    worst: float = 0.0
    where: str = "all exact"
    n_cases: int = 0
    unrepeatable: list[str] = field(default_factory=list)


def run(job: Job) -> None:
    """Kernel by kernel, its large cases first: they are what a CPU can't try."""
    torch.manual_seed(0)
    by_kernel: dict[str, list[Check]] = {}
    for case in _toy() if job.toy else (*large(), *small()):
        by_kernel.setdefault(case.kernel, []).append(case)
    for kernel, cases in by_kernel.items():
        found = _Found()
        for case in cases:
            try:
                _try(job, case, found)
            except torch.cuda.OutOfMemoryError:
                job.note(**{f"{kernel}, {case.case}": "left out: it does not fit into memory"})
            gc.collect()
        _add(job, kernel, found)


def _toy() -> Iterable[Check]:
    """A case of each kernel, its first and smallest, and far rows that are near."""
    yield from {case.kernel: case for case in reversed(list(small()))}.values()
    yield far_rows((5, 8, 17, 70))


def _add(job: Job, kernel: str, found: _Found) -> None:
    job.add(
        f"{kernel}: largest error over its tolerance",
        found.worst,
        goal=WITHIN_TOLERANCE,
        note=f"of {found.n_cases} cases; {found.where}",
    )
    job.add(
        f"{kernel}: cases with other bits in {_runs(job)} runs",
        len(found.unrepeatable),
        goal=NONE_DIFFERS,
        note="; ".join(found.unrepeatable),
    )


def _runs(job: Job) -> int:
    return _TOY_RUNS if job.toy else RUNS


def _try(job: Job, case: Check, found: _Found) -> None:
    inputs = case.inputs(job.device)
    results = case.run(*inputs)
    for deviation in case.deviations(results, *inputs):
        over = deviation.error / deviation.allowed if deviation.allowed else deviation.error
        if not deviation.within:
            over = max(over, 2.0)  # of what must not be at all, one is too many
            print(f"  WRONG {case.kernel}, {case.case}: {deviation}", flush=True)
            job.note(**{f"{case.kernel}, {case.case}, {deviation.what}": str(deviation.error)})
        if not (over <= found.worst or isnan(found.worst)):  # a NaN is the worst
            found.worst, found.where = over, f"{case.case}: {deviation.what}"
    found.n_cases += 1
    for _ in range(_runs(job) - 1):
        again = case.run(*inputs)
        if not all(torch.equal(a, b) for a, b in zip(results, again, strict=True)):
            found.unrepeatable.append(case.case)
            return
