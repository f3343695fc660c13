"""What every fit returns: frozen, at full precision, with intervals, a status and warnings."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import StrEnum
from typing import Any, NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats

Array = NDArray[np.float64]


class FitError(ValueError):
    """There is no result at all, e.g. too few points."""


class FitStatus(StrEnum):
    """CONVERGED: nothing speaks against the number. The others: see the result's warnings."""

    CONVERGED = "converged"
    DOUBTFUL = "doubtful"
    BOUND_HIT = "bound hit"  # a parameter stopped at the edge of what it may be
    MAX_ITER = "not converged"


class Prediction(NamedTuple):
    """A predicted value and its interval at `level`, in the value's own unit."""

    value: Array
    lower: Array
    upper: Array
    level: float


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        if not self.lower <= self.upper:  # nan: nothing to tell an interval by
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.lower:.4g} to {self.upper:.4g})"


@dataclass(frozen=True, kw_only=True)
class Fit(ABC):
    """What all fitted laws share. `estimates` are in the order of `names`.

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
    fixed: tuple[str, ...] = ()  # names that the runs can't tell and that were not fitted

    @property
    def params(self) -> dict[str, float]:
        """Name -> estimate."""
        return dict(zip(self.names, self.estimates, strict=True))

    @property
    @abstractmethod
    def bse(self) -> dict[str, float]:
        """Name -> standard error; nan where there is nothing to tell it by."""

    @abstractmethod
    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """A row a parameter: lower, upper. nan where there is nothing to tell them by."""

    def bounds(self, name: str, level: float = 0.95) -> tuple[float, float]:
        """The interval of one parameter."""
        low, high = self.conf_int(level).loc[[name]].to_numpy()[0]
        return float(low), float(high)

    def summary(self) -> str:
        """The form, a line a parameter with its interval, and what speaks against it."""
        lines = [f"{self.form}   ({self.n_points} points, objective {self.objective:.6g})"]
        for name, value in self.params.items():
            low, high = self.bounds(name)
            told = f"95 % {low:.4g} to {high:.4g}" if name not in self.fixed else "not fitted"
            lines.append(f"  {name:>12} = {value:<12.6g} {told}")
        lines.append(f"  intervals: {self.interval}")
        return "\n".join([*lines, *said(self.status, self.warnings)])

    def to_dict(self) -> dict[str, Any]:
        """Everything but the draws, at full precision, with 95 % intervals; JSON can hold it."""
        return {
            **plain(self),
            "params": self.params,
            "bse": plain(self.bse),
            "conf_int": {name: plain(self.bounds(name)) for name in self.names},
        }


@dataclass(frozen=True, kw_only=True)
class WaldFit(Fit):
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
        with np.errstate(over="ignore"):  # a coefficient that nothing tells: up to infinity
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


@dataclass(frozen=True, kw_only=True)
class DrawsFit(Fit):
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


def percentiles(draws: Array, level: float) -> tuple[Array, Array]:
    """The central interval along the first axis; nan without draws."""
    check_level(level)
    if not len(draws):
        nothing = np.full(draws.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def t_quantile(dof: int, level: float) -> float:
    """Of Student's t, two-sided; nan without a degree of freedom."""
    check_level(level)
    return float(stats.t.ppf((1 + level) / 2, dof)) if dof > 0 else float("nan")


def check_level(level: float) -> None:
    """Raises ValueError unless 0 < level < 1."""
    if not 0 < level < 1:
        raise ValueError(f"level={level!r} must lie between 0 and 1, e.g. 0.95")


def positive(name: str, values: ArrayLike) -> Array:
    """As float64. Raises ValueError naming the first that is not finite and above 0."""
    array = np.asarray(values, dtype=np.float64)
    bad = np.flatnonzero(~(np.isfinite(array) & (array > 0)))
    if bad.size:
        at = f"[{bad[0]}]" if array.ndim else ""
        more = f"; {bad.size} of {array.size} are not" if array.size > 1 else ""
        raise ValueError(f"{name}{at}={float(array.flat[bad[0]])} must be finite and above 0{more}")
    return array


def said(status: FitStatus, warnings: Sequence[str]) -> list[str]:
    """The line of a summary that says what speaks against it, if anything does."""
    return [f"  {status}: {'; '.join(warnings)}"] if warnings else []


def counted(n: int, what: str) -> str:
    """ "1 budget", "2 budgets"."""
    return f"{n} {what}{'' if n == 1 else 's'}"


def listed(items: Sequence[str], n: int = 3, separator: str = ", ") -> str:
    """The first n of them, and how many more: "a, b, c, and 16 more"."""
    more = [f"and {len(items) - n} more"] if len(items) > n else []
    return separator.join([*items[:n], *more])


def worst(statuses: Sequence[FitStatus]) -> FitStatus:
    """The one of several that says most against."""
    order = list(FitStatus)
    return max(statuses, key=order.index, default=FitStatus.CONVERGED)


def plain(value: Any) -> Any:
    """A result as JSON can hold it: dicts, lists, numbers; nan and infinities become None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, StrEnum):
        return str(value)
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.repr}
    if isinstance(value, Prediction | Estimate):
        return {name: plain(item) for name, item in value._asdict().items()}
    if isinstance(value, np.ndarray | tuple | list):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not np.isfinite(value):
        return None
    return value


class Doubts:
    """Collects warnings while a fit is made, and the worst status that they amount to."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.status = FitStatus.CONVERGED

    def add(self, text: str, status: FitStatus = FitStatus.DOUBTFUL) -> Self:
        self.warnings.append(text)
        self.status = worst([self.status, status])
        return self
