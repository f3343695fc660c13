"""Numbers with their intervals, from draws of a bootstrap or by Student's t."""

from collections.abc import Callable
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from analysis.fitting.checks import check_level

Array = NDArray[np.float64]


class Prediction(NamedTuple):
    """A predicted value and its interval at `level`, in the value's own unit."""

    value: Array
    lower: Array
    upper: Array
    level: float

    def on(self, scale: Callable[[Array], Array]) -> "Prediction":
        """Same of a function of the value that rises with it, as np.log."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            value, low, high = (scale(np.asarray(v))[()] for v in self[:3])
        return Prediction(value, low, high, self.level)

    def wider(self, more: Array | float) -> "Prediction":
        """Same, with an independent error of this half-width too."""
        value, low, high, level = self
        with np.errstate(invalid="ignore"):
            ends = value - np.hypot(value - low, more), value + np.hypot(high - value, more)
        nothing = np.asarray(more) == 0  # where rounding would move an end
        lower, upper = (np.where(nothing, *pair)[()] for pair in zip((low, high), ends))
        return Prediction(value, lower, upper, level)

    @property
    def first(self) -> "Estimate":
        """That of the first point."""
        return Estimate(*(float(np.ravel(v)[0]) for v in self[:3]))


class Estimate(NamedTuple):
    """A number and its interval."""

    value: float
    lower: float
    upper: float

    def __str__(self) -> str:
        if not self.lower <= self.upper:  # nan: no interval
            return f"{self.value:.4g}"
        return f"{self.value:.4g} ({self.lower:.4g} to {self.upper:.4g})"

    def __neg__(self) -> "Estimate":
        return Estimate(-self.value, -self.upper, -self.lower)

    @classmethod
    def around(cls, value: float, half: float) -> "Estimate":
        """Interval of a number that is half as wide on each side; none for nan."""
        return cls(value, float(value - half), float(value + half))

    @classmethod
    def of_draws(cls, value: float, draws: Array, level: float = 0.95) -> "Estimate":
        """Interval of percentiles of draws (n,); nan without any."""
        low, high = percentiles(draws, level)
        return cls(float(value), float(low), float(high))

    def columns(self, name: str) -> dict[str, float]:
        """name, name_lower and name_upper, for a row of a table."""
        return {name: self.value, f"{name}_lower": self.lower, f"{name}_upper": self.upper}


class NoMinimum(Estimate):
    """No number: the loss is lowest at an end of the sizes that were looked at, or they have no
    lowest; within: these sizes.
    """

    within: tuple[float, float]

    @classmethod
    def of(cls, low: float, high: float) -> Self:
        found = cls(*[float("nan")] * 3)
        found.within = float(low), float(high)
        return found

    def __str__(self) -> str:
        return "no minimum within {:.3g} to {:.3g}".format(*self.within)


def percentiles(draws: Array, level: float) -> tuple[Array, Array]:
    """Central interval along the first axis; nan without draws."""
    check_level(level)
    if not len(draws):
        nothing = np.full(draws.shape[1:], np.nan)
        return nothing, nothing
    low, high = np.quantile(draws, [(1 - level) / 2, (1 + level) / 2], axis=0)
    return low, high


def mean_by_t(values: Array, level: float) -> Estimate:
    """Mean of (n,) values with an interval of Student's t; nan for what can't be known."""
    if not len(values):
        return Estimate(*[float("nan")] * 3)
    mean = float(np.mean(values))
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    half = t_quantile(len(values) - 1, level) * spread / np.sqrt(len(values))
    return Estimate.around(mean, half)


def t_quantile(dof: int, level: float) -> float:
    """Quantile of Student's t, two-sided; nan without a degree of freedom."""
    check_level(level)
    return float(stats.t.ppf((1 + level) / 2, dof)) if dof > 0 else float("nan")
