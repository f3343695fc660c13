"""Face of every result: status and warnings, a summary to print, a table, a dict for JSON.

A fit has parameters besides, with standard errors and intervals, and predicts.
"""

import html
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import pandas as pd

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Array, Prediction, percentiles, t_quantile
from analysis.fitting.plain import plain
from analysis.fitting.status import FitStatus, find_status, worst_status
from analysis.fitting.text import format_status


@dataclass(frozen=True, kw_only=True, repr=False)
class Result(ABC):
    """Frozen; its status is CONVERGED where it has no warnings.

    Subclasses are dataclasses with repr=False: printing shows the summary, a notebook the table.
    of_table: warnings of the table that it is of (table/warned.py), which those that find their
    warnings when asked say first.
    """

    of_table: tuple[str, ...] = field(default=(), repr=False)

    if TYPE_CHECKING:  # fields of some results, properties of others

        @property
        def status(self) -> FitStatus: ...

        @property
        def warnings(self) -> tuple[str, ...]: ...

    def with_warnings(self, texts: Sequence[str]) -> Self:
        """Same, with warnings of its table before its own."""
        new = tuple(text for text in texts if text not in self.warnings)
        known = {one.name for one in fields(self)}
        if not new or "warnings" not in known:
            return replace(self, of_table=(*self.of_table, *new)) if new else self
        worse: dict[str, Any] = {"warnings": (*new, *self.warnings)}
        if "status" in known:
            worse["status"] = worst_status([self.status, FitStatus.WARNING])
        return replace(self, **worse)

    @abstractmethod
    def summary(self) -> str:
        """Result in lines of text, with its warnings."""

    @abstractmethod
    def to_frame(self) -> pd.DataFrame:
        """Result as a table."""

    def to_dict(self) -> dict[str, Any]:
        """All fields at full precision but the draws, as JSON can hold them."""
        return {**plain(self), "status": str(self.status), "warnings": list(self.warnings)}

    def __str__(self) -> str:
        return self.summary()

    def __repr__(self) -> str:
        n = len(self.warnings)
        return f"<{type(self).__name__}: {self.status}{f', {n} warnings' if n > 1 else ''}>"

    def _repr_html_(self) -> str:
        """Table, then the warnings; for notebooks."""
        table = self.to_frame().to_html(border=0, na_rep="", float_format=lambda v: f"{v:.5g}")
        name, status = type(self).__name__, html.escape(str(self.status))
        items = "".join(f"<li>{html.escape(text)}</li>" for text in self.warnings)
        return f"<p>{name}: {status}</p>{table}" + (f"<ul>{items}</ul>" if items else "")


class Warned(Result):
    """A result whose status says no more than whether it has warnings."""

    @property
    def status(self) -> FitStatus:
        return find_status(self.warnings)


class Fit(Result):
    """A result with parameters."""

    @property
    @abstractmethod
    def params(self) -> dict[str, float]:
        """Name -> estimate."""

    @property
    @abstractmethod
    def bse(self) -> dict[str, float]:
        """Name -> standard error; nan where it is not known."""

    @abstractmethod
    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """A row a parameter: lower, upper. nan where they are not known."""

    @abstractmethod
    def predict(self, *args: Any, **kwargs: Any) -> Prediction:
        """Fitted value and its interval; each fit says at what."""

    def bounds(self, name: str, level: float = 0.95) -> tuple[float, float]:
        low, high = self.conf_int(level).loc[[name]].to_numpy()[0]
        return float(low), float(high)

    def to_frame(self) -> pd.DataFrame:
        """A row a parameter: value, standard error, lower, upper (95 %)."""
        names = list(self.params)
        columns = {"value": self.params.values(), "standard error": self.bse.values()}
        frame = pd.DataFrame({name: list(v) for name, v in columns.items()}, index=names)
        return frame.join(self.conf_int())

    def to_dict(self) -> dict[str, Any]:
        """All fields at full precision but the draws, with 95 % intervals, as JSON can hold it."""
        intervals = self.conf_int()
        return {
            **super().to_dict(),
            "params": plain(self.params),
            "bse": plain(self.bse),
            "conf_int": {n: plain(intervals.loc[[n]].to_numpy()[0]) for n in self.params},
        }


@dataclass(frozen=True, kw_only=True, repr=False)
class LawFit(Fit):
    """Base of all fitted laws. `estimates` are in the order of `names`.

    form: the formula; objective: its value at the optimum, the smaller the better (each fit says
    which); interval: how the intervals were made.
    """

    form: str
    names: tuple[str, ...]
    estimates: tuple[float, ...]
    n_points: int
    objective: float
    interval: str
    status: FitStatus
    warnings: tuple[str, ...]
    fixed: tuple[str, ...] = ()  # names that these runs do not identify, and that were not fitted

    @property
    def params(self) -> dict[str, float]:
        return dict(zip(self.names, self.estimates, strict=True))

    def summary(self) -> str:
        """Form, a line a parameter with its interval, and the warnings."""
        lines = [f"{self.form}   ({self.n_points} points, objective {self.objective:.6g})"]
        ends = self.conf_int().to_numpy()
        for (name, value), (low, high) in zip(self.params.items(), ends, strict=True):
            interval = f"95 % {low:.4g} to {high:.4g}" if name not in self.fixed else "not fitted"
            lines.append(f"  {name:>12} = {value:<12.6g} {interval}")
        lines.append(f"  intervals: {self.interval}")
        return "\n".join([*lines, *format_status(self.status, self.warnings)])


@dataclass(frozen=True, kw_only=True, repr=False)
class WaldFit(LawFit):
    """A fit whose intervals are Student's t on the scale where it is nearly linear.

    theta: the parameters there (names in `logs` are logarithms of those reported); covariance:
    theirs, s^2 (J'J)^-1, so that misfit counts as noise; dof: points less parameters.
    """

    theta: tuple[float, ...]
    covariance: tuple[tuple[float, ...], ...]
    dof: int
    logs: tuple[str, ...]

    @property
    def bse(self) -> dict[str, float]:
        sd = np.sqrt(np.diag(np.array(self.covariance)))
        return {
            name: float(s * value if name in self.logs else s)
            for name, s, value in zip(self.names, sd, self.estimates, strict=True)
        }

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        half = t_quantile(self.dof, level) * np.sqrt(np.diag(np.array(self.covariance)))
        theta = np.array(self.theta)
        bounds = np.stack([theta - half, theta + half], axis=1)
        logs = np.isin(self.names, self.logs)
        with np.errstate(over="ignore"):  # a coefficient that is not identifiable: up to infinity
            bounds[logs] = np.exp(bounds[logs])
        return pd.DataFrame(bounds, index=list(self.names), columns=["lower", "upper"])

    def _predict_log(self, log_value: Array, jacobian: Array, level: float) -> Prediction:
        """log_value (n,) and its derivatives by theta (n, p), to a prediction of the value."""
        check_level(level)
        spread = np.einsum("ni,ij,nj->n", jacobian, np.array(self.covariance), jacobian)
        half = t_quantile(self.dof, level) * np.sqrt(spread)
        with np.errstate(over="ignore"):
            low, high = np.exp(log_value - half), np.exp(log_value + half)
        return Prediction(np.exp(log_value), low, high, level)


@dataclass(frozen=True, kw_only=True, repr=False)
class DrawsFit(LawFit):
    """A fit whose intervals are percentiles of `draws` (n_draws, parameters), from a bootstrap."""

    draws: Array = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        self.draws.flags.writeable = False

    @property
    def bse(self) -> dict[str, float]:
        with_draws = len(self.draws) > 1
        sd = self.draws.std(axis=0, ddof=1) if with_draws else np.full(len(self.names), np.nan)
        return dict(zip(self.names, sd.tolist(), strict=True))

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        low, high = percentiles(self.draws, level)
        return pd.DataFrame({"lower": low, "upper": high}, index=list(self.names))
