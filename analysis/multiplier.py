"""How much more compute one model needs than another for the same loss.

Under L = L_inf + A C^-alpha with one asymptote and one alpha for both, the factor is the same at
every loss: ((L_worse - L_inf) / (L_better - L_inf))^(1/alpha) at equal compute.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Estimate, t_quantile
from analysis.fitting.results import Result
from analysis.fitting.status import FitError, FitStatus, Warnings
from analysis.fitting.text import format_status

_PARALLEL = 0.05  # significance at which unequal slopes are said
_EXACT = 1e-6  # relative: slopes of points without scatter that differ by less are the same


@dataclass(frozen=True, kw_only=True, repr=False)
class ComputeMultiplier(Result):
    """multiplier: how many times the compute the baseline needs (above 1: the other is better).

    lower, upper: Student's t interval from the points' scatter about the two parallel laws, that
    is with their lack of fit; alpha: of the law, fitted unless pinned; per_budget: budget -> the
    factor at that budget alone, where both have a run; by_asymptote: asymptote -> multiplier.
    Infinite where a number is too large for one.
    """

    multiplier: float
    lower: float
    upper: float
    level: float
    alpha: float
    alpha_pinned: bool
    asymptote: float
    dof: int
    n_points: int
    per_budget: dict[float, float]
    by_asymptote: dict[float, float]
    status: FitStatus
    warnings: tuple[str, ...]

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.multiplier, self.lower, self.upper)

    def summary(self) -> str:
        """The factor, its interval, and what it rests on."""
        pinned = "pinned" if self.alpha_pinned else "fitted"
        lines = [
            f"compute multiplier {self.multiplier:.3g} ({self.level:.0%}: {self.lower:.3g} to "
            f"{self.upper:.3g}) at asymptote {self.asymptote:g} nats, alpha {self.alpha:.4f} "
            f"({pinned}), {self.n_points} points, {self.dof} degrees of freedom",
            "  by asymptote: "
            + ", ".join(f"{a:.3g}: {m:.3g}" for a, m in self.by_asymptote.items()),
        ]
        if self.per_budget:
            each = ", ".join(f"C={c:.3g}: {m:.3g}" for c, m in self.per_budget.items())
            lines.append(f"  by budget: {each}")
        return "\n".join([*lines, *format_status(self.status, self.warnings)])

    def to_frame(self) -> pd.DataFrame:
        """A row each for all budgets together, each budget alone, and each asymptote."""
        rows = [("all budgets", self.multiplier, self.lower, self.upper)]
        rows += [(f"C = {c:.4g}", m, np.nan, np.nan) for c, m in self.per_budget.items()]
        rows += [(f"asymptote {a:.4g}", m, np.nan, np.nan) for a, m in self.by_asymptote.items()]
        return pd.DataFrame(rows, columns=["of", "multiplier", "lower", "upper"])


def compute_multiplier(
    baseline: tuple[ArrayLike, ArrayLike],
    other: tuple[ArrayLike, ArrayLike],
    *,
    asymptote: float,
    alpha: float | None = None,
    level: float = 0.95,
) -> ComputeMultiplier:
    """From (budgets in FLOPs, losses in nats/token) of each, e.g. IsoFLOPFit.frontier(model).

    asymptote: L_inf, below every loss; it belongs to the evaluation set and is no detail, so it
    has no default, and by_asymptote shows what a tenth less does, and a tenth more where that is
    still below every loss. alpha: pins the exponent; None fits one for both, which takes two
    budgets in one of the arms at least. Raises ValueError naming what is out of range, FitError if
    alpha can't be fitted or the losses do not fall.
    """
    check_level(level)
    (c0, l0), (c1, l1) = _arm("baseline", *baseline), _arm("other", *other)
    lowest = float(min(l0.min(), l1.min()))
    if not 0 <= asymptote < lowest:
        raise ValueError(
            f"asymptote={asymptote!r} must be at least 0 and below the lowest loss, {lowest:.4f}"
        )
    if alpha is not None and not alpha > 0:
        raise ValueError(f"alpha={alpha!r} must be above 0")
    n = len(c0) + len(c1)
    own_alpha = max(len(np.unique(c0)), len(np.unique(c1))) > 1
    if alpha is None and not own_alpha:
        where = "one budget" if len(np.unique([*c0, *c1])) == 1 else "a single budget of each arm"
        raise FitError(f"{n} points at {where}: alpha can't be fitted; pin it with alpha=")
    theta, covariance, dof = _parallel(c0, l0, c1, l1, asymptote, alpha)
    slope = theta[2]
    if not slope > 0:
        raise FitError(f"alpha={slope:.3g}: the losses do not fall with compute")
    warned = Warnings()
    if dof == 0:
        warned.add("no degree of freedom: the error is unknown")
    low, high = _ratio_interval(theta[0] - theta[1], slope, covariance, dof, level)
    if np.isinf(high) or low == 0:
        warned.add("alpha is not significantly different from 0: the multiplier may be anything")
    if not low <= 1 <= high and dof == 1:
        warned.add("one degree of freedom: an interval that leaves out 1 may be luck")
    p = _unequal_slopes(c0, l0, c1, l1, asymptote)
    if p is not None and p < _PARALLEL:
        warned.add(f"the two curves are not parallel (p = {p:.3f}): it changes with compute")
    if alpha is not None and own_alpha:
        fitted, spread, free = _parallel(c0, l0, c1, l1, asymptote, None)
        half = t_quantile(free, level) * np.sqrt(spread[2, 2])
        if abs(fitted[2] - alpha) > half + _EXACT * alpha:
            own = Estimate(fitted[2], fitted[2] - half, fitted[2] + half)
            warned.add(f"alpha={alpha:g} is pinned, and these points have {own}")
    by_asymptote = {}
    for value in (0.9 * asymptote, asymptote, 1.1 * asymptote):
        if value < lowest:
            at, *_ = _parallel(c0, l0, c1, l1, value, alpha)
            by_asymptote[float(value)] = _exp((at[0] - at[1]) / at[2])
    both = sorted(set(c0.tolist()) & set(c1.tolist()))
    excess = {c: (l0[c0 == c].min() - asymptote, l1[c1 == c].min() - asymptote) for c in both}
    per_budget = {c: _exp(np.log(w / b) / slope) for c, (w, b) in excess.items()}
    return ComputeMultiplier(
        multiplier=_exp((theta[0] - theta[1]) / slope),
        lower=low,
        upper=high,
        level=level,
        alpha=float(slope),
        alpha_pinned=alpha is not None,
        asymptote=float(asymptote),
        dof=dof,
        n_points=n,
        per_budget=per_budget,
        by_asymptote=by_asymptote,
        status=warned.status,
        warnings=tuple(warned.texts),
    )


def _arm(name: str, budgets: ArrayLike, losses: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    C, L = (np.asarray(v, dtype=np.float64).ravel() for v in (budgets, losses))
    if len(C) != len(L) or not len(C):
        raise ValueError(f"{name}: {len(C)} budgets for {len(L)} losses")
    for what, values in (("budget", C), ("loss", L)):
        bad = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
        if len(bad):
            raise ValueError(f"{name}: {what}[{bad[0]}]={float(values[bad[0]])} must be above 0")
    return C, L


def _parallel(
    c0: np.ndarray,
    l0: np.ndarray,
    c1: np.ndarray,
    l1: np.ndarray,
    asymptote: float,
    alpha: float | None,
) -> tuple[np.ndarray, np.ndarray, int]:
    """ln A of the baseline, ln A of the other, alpha; their covariance; degrees of freedom."""
    x = np.log(np.concatenate([c0, c1]))
    centre = x.mean()
    y = np.log(np.concatenate([l0, l1]) - asymptote)
    arm = np.concatenate([np.ones(len(c0)), np.zeros(len(c1))])
    X = np.stack([arm, 1 - arm, -(x - centre)], axis=1)
    if alpha is not None:
        y, X = y + alpha * (x - centre), X[:, :2]
    theta, *_ = np.linalg.lstsq(X, y, rcond=None)
    dof = len(y) - X.shape[1]
    residuals = y - X @ theta
    variance = float(residuals @ residuals) / dof if dof > 0 else np.nan
    covariance = np.zeros((3, 3))
    k = X.shape[1]
    covariance[:k, :k] = variance * np.linalg.inv(X.T @ X)
    if alpha is not None:
        theta = np.append(theta, alpha)
    # Both intercepts move by the same when x is not centred: their difference does not.
    return theta, covariance, dof


def _ratio_interval(
    difference: float, slope: float, covariance: np.ndarray, dof: int, level: float
) -> tuple[float, float]:
    """Fieller's interval of exp(difference / slope)."""
    t = t_quantile(dof, level)
    if not np.isfinite(t):
        return float("nan"), float("nan")
    contrast = np.array([[1.0, -1.0, 0.0], [0.0, 0.0, 1.0]])
    v = contrast @ covariance @ contrast.T
    a = slope**2 - t**2 * v[1, 1]
    b = difference * slope - t**2 * v[0, 1]
    c = difference**2 - t**2 * v[0, 0]
    if a <= 0:
        return 0.0, float("inf")
    half = np.sqrt(max(b**2 - a * c, 0.0)) / a
    return _exp(b / a - half), _exp(b / a + half)


def _exp(value: float) -> float:
    with np.errstate(over="ignore"):  # where alpha is close to 0
        return float(np.exp(value))


def _unequal_slopes(
    c0: np.ndarray, l0: np.ndarray, c1: np.ndarray, l1: np.ndarray, asymptote: float
) -> float | None:
    """p of the F test of one slope against two; None below three budgets in either arm.

    Points without scatter have p 0 or 1.
    """
    if min(len(np.unique(c0)), len(np.unique(c1))) < 3:
        return None
    squares, free, slopes = 0.0, 0, []
    for c, losses in ((c0, l0), (c1, l1)):
        x, y = np.log(c), np.log(losses - asymptote)
        line = np.polyfit(x - x.mean(), y, 1)
        residuals = y - np.polyval(line, x - x.mean())
        squares += float(residuals @ residuals)
        free += len(c) - 2
        slopes.append(line[0])
    if squares <= 1e-20:  # rounding
        return 0.0 if abs(slopes[0] - slopes[1]) > _EXACT * max(np.abs(slopes)) else 1.0
    theta, _, dof = _parallel(c0, l0, c1, l1, asymptote, None)
    x = np.log(np.concatenate([c0, c1]))
    level = np.where(np.arange(len(x)) < len(c0), theta[0], theta[1])
    y = np.log(np.concatenate([l0, l1]) - asymptote)
    together = float(((y - level + theta[2] * (x - x.mean())) ** 2).sum())
    return float(stats.f.sf((together - squares) / (squares / free), dof - free, free))
