"""The parts of the check, most valuable first, with what each may take and what it needs."""

from dataclasses import dataclass
from importlib import import_module
from typing import Protocol, cast

from experiments.gpu.job import Job


@dataclass(frozen=True, kw_only=True)
class Part:
    """A module of this package of the same name with `run(job)`. seconds: its time at most."""

    name: str
    seconds: float
    about: str

    def run(self, job: Job) -> None:
        """Measures, and adds to the job's report."""
        cast(_Module, import_module(f"experiments.gpu.{self.name}")).run(job)


class _Module(Protocol):
    def run(self, job: Job) -> None: ...


PARTS = (
    Part(name="environment", seconds=45, about="card, driver, versions; copies and products"),
    Part(name="kernels", seconds=150, about="Triton's values against float64, and to the bit"),
    Part(name="layer", seconds=75, about="one PEER and PKM layer against its floor; gathers"),
    Part(name="steps", seconds=60, about="training steps of PEER and PKM at dense's FLOPs"),
    Part(name="model", seconds=150, about="124 M parameters: tokens/s and MFU, with compile"),
    Part(name="memory", seconds=60, about="the paper's batch: peak memory against the plan"),
    Part(name="resume", seconds=45, about="a resumed loop against an uninterrupted one"),
    Part(name="tables", seconds=60, about="table optimizers, and the search for product keys"),
    Part(name="sanitizer", seconds=90, about="compute-sanitizer on each kernel, if it is there"),
    Part(name="isoflop", seconds=600, about="the harness itself at 1e15 FLOPs; needs its wheels"),
)
NAMES = tuple(part.name for part in PARTS)


def part_named(name: str) -> Part:
    """Raises ValueError for an unknown one."""
    for part in PARTS:
        if part.name == name:
            return part
    raise ValueError(f"--only {name!r} is not one of {', '.join(NAMES)}")
