"""How far a result is to be trusted: a status, and the warnings that it stands for."""

from collections.abc import Sequence
from enum import StrEnum


class FitError(ValueError):
    """There is no result at all, e.g. too few points."""


class FitStatus(StrEnum):
    """CONVERGED: no warnings. The others, from mild to severe: see the result's warnings."""

    CONVERGED = "converged"
    WARNING = "warning"
    BOUND_HIT = "bound hit"  # a parameter stopped at the edge of what it may be
    MAX_ITER = "not converged"


def worst_status(statuses: Sequence[FitStatus]) -> FitStatus:
    """Most severe; CONVERGED of none."""
    order = list(FitStatus)
    return max(statuses, key=order.index, default=FitStatus.CONVERGED)


def find_status(warnings: Sequence[str]) -> FitStatus:
    """WARNING if there are any."""
    return FitStatus.WARNING if warnings else FitStatus.CONVERGED


class Warnings:
    """Collects warnings while a fit is made, and the worst status among them."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.status = FitStatus.CONVERGED

    def add(self, text: str, status: FitStatus = FitStatus.WARNING) -> None:
        self.texts.append(text)
        self.status = worst_status([self.status, status])
