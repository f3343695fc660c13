"""Laws side by side: what a comparison shows, whichever way its runs were held out."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.fitting.results import Result
from analysis.fitting.status import FitStatus, status_of, worst_status
from analysis.fitting.text import in_columns
from analysis.laws.result import FittedLaw


@dataclass(frozen=True, kw_only=True)
class Compared:
    """One form: rmse and held_out_rmse in nats/token, bias = mean of predicted - measured.

    rmse: over all runs; held_out: over those that a fit without them was asked for; nan if none.
    """

    form_name: str
    n_params: int
    rmse: float
    held_out_rmse: float
    held_out_bias: float
    status: FitStatus
    warnings: tuple[str, ...]

    @classmethod
    def of(cls, fit: FittedLaw, off: Array, off_held: Array, **more: Any) -> Self:
        """From the errors of a fit, and those of a fit without the runs held out."""
        own: dict[str, Any] = {"status": fit.status, "warnings": fit.warnings, **more}
        return cls(
            form_name=fit.form_name,
            n_params=len(fit.names) - len(fit.fixed),
            rmse=float(np.sqrt(np.mean(off**2))),
            held_out_rmse=float(np.sqrt(np.mean(off_held**2))),
            held_out_bias=float(np.mean(off_held)),
            **own,
        )


@dataclass(frozen=True, kw_only=True, repr=False)
class Comparison(Result):
    """Forms in their order, on the same n_points runs.

    held_out: which runs held_out_rmse is of, in words; fits: to all runs; skipped: what could not
    be fitted, and why.
    """

    columns: ClassVar[tuple[str, ...]]
    n_points: int
    held_out: str
    fits: tuple[FittedLaw, ...]
    skipped: tuple[str, ...]

    @property
    @abstractmethod
    def compared(self) -> Sequence[Compared]:
        """A row a form."""

    @property
    @abstractmethod
    def disagreement(self) -> list[str]:
        """Where the comparison does not choose."""

    @abstractmethod
    def _heading(self) -> str:
        """The summary's first line."""

    @property
    def status(self) -> FitStatus:
        """The worst of the forms'; WARNING at least if there are warnings."""
        return worst_status([status_of(self.warnings), *(one.status for one in self.compared)])

    @property
    def warnings(self) -> tuple[str, ...]:
        own = [f"{one.form_name}: {text}" for one in self.compared for text in one.warnings]
        return (*own, *self.disagreement)

    def to_frame(self) -> pd.DataFrame:
        """A row a form."""
        return pd.DataFrame([{n: getattr(one, n) for n in self.columns} for one in self.compared])

    def summary(self) -> str:
        rest = [*self.warnings, *(f"skipped {s}" for s in self.skipped)]
        table = in_columns(self.to_frame())
        return "\n".join([self._heading(), table, *(f"  note: {line}" for line in rest)])

    def to_dict(self) -> dict[str, Any]:
        fits = {fit.form_name: fit.to_dict() for fit in self.fits}
        return {**super().to_dict(), "fits": fits}
