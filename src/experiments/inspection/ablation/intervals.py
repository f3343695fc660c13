"""Means over documents or facts, and their intervals by Student's t."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

LEVEL = 0.95
FEWEST = 20  # units, below which an interval says little, and one fact nothing


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A value, the variance of its error, and the degrees of freedom that this is known by."""

    value: float
    variance: float
    df: float

    def interval(self) -> tuple[float, float]:
        """Low and high, of LEVEL."""
        half = float(student.ppf((1 + LEVEL) / 2, self.df)) * math.sqrt(self.variance)
        return self.value - half, self.value + half


def mean(values: np.ndarray) -> Estimate:
    """The interval of units (U,) that are drawn independently, at least 2."""
    n = len(values)
    return Estimate(
        value=float(np.mean(values)), variance=float(np.var(values, ddof=1)) / n, df=n - 1
    )


def ratio(totals: np.ndarray, sizes: np.ndarray) -> Estimate:
    """The sum of totals (U,) over the sum of sizes (U,), as nats over tokens, where units are drawn
    and not tokens. The variance is the linearised one (Cochran 1977, Sampling Techniques, §6.4).
    """
    n, size = len(totals), float(np.sum(sizes))
    value = float(np.sum(totals)) / size
    off = totals - value * sizes
    return Estimate(value=value, variance=n / (n - 1) * float(np.sum(off**2)) / size**2, df=n - 1)


def weighted(parts: Sequence[tuple[float, Estimate]]) -> Estimate:
    """A sum of independent estimates times weights; df by Welch & Satterthwaite."""
    value = sum(weight * part.value for weight, part in parts)
    each = [(weight**2 * part.variance, part.df) for weight, part in parts]
    variance = sum(v for v, _ in each)
    below = sum(v**2 / df for v, df in each)
    df = variance**2 / below if below else min(df for _, df in each)
    return Estimate(value=value, variance=variance, df=df)


def with_draws(estimate: Estimate, draws: np.ndarray) -> Estimate:
    """Of a mean over D draws of experts, too: units are others in another sample, and so are the
    experts that are drawn. estimate: of units, for these draws; draws (D,): the value of each.

    Both variances are added. What both have in common is counted twice then, so that an interval
    is rather too wide than too narrow.
    """
    spread = mean(draws)
    return weighted(
        ((1.0, estimate), (1.0, Estimate(value=0.0, variance=spread.variance, df=spread.df)))
    )
