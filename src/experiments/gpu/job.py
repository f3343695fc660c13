"""Job of a part: a device, sizes, the report, and how long it may take."""

import time
from dataclasses import dataclass
from typing import Any, Literal

from experiments.gpu.goals import Goal
from experiments.gpu.report import Measurement, Report


class LeftOut(Exception):
    """What a part needs is not there; the reason, for the report."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One part under way. toy: sizes for a CPU, which say nothing about speed. deadline: of
    time.monotonic(), when the process is ended.
    """

    part: str
    device: str
    toy: bool
    report: Report
    deadline: float

    @property
    def kernel(self) -> Literal["triton", "torch"]:
        """What is timed; on a CPU Triton is interpreted, which only its values are worth."""
        return "triton" if self.device == "cuda" else "torch"

    @property
    def card(self) -> str:
        """Its name; none of a CPU."""
        import torch

        return torch.cuda.get_device_name() if self.device == "cuda" else ""

    def add(
        self,
        name: str,
        value: float,
        unit: str = "",
        *,
        goal: Goal | None = None,
        anchor: str = "",
        note: str = "",
    ) -> None:
        """Writes a measurement down, and prints it."""
        found = Measurement(
            name=name, value=float(value), unit=unit, goal=goal, anchor=anchor, note=note
        )
        self.report.add(self.part, found)
        beside = "" if goal is None else f"  ({goal.describe()}: {'' if found.met else 'not '}met)"
        print(f"  {name}: {value:.5g} {unit}{beside}", flush=True)

    def note(self, **facts: Any) -> None:
        """Writes down what is no measurement."""
        self.report.note(self.part, **facts)

    def seconds_left(self) -> float:
        """Until the process is ended."""
        return self.deadline - time.monotonic()
