"""Power laws of compute: y = coefficient * C^exponent, and with a floor L = E + A * C^-alpha.

Both by least squares of the logarithm, with Student's t intervals from the scatter about the law,
which holds the law's misfit as well as noise. Beyond the points `extrapolate` has an error of form.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike
from scipy import stats

from analysis.fitting.checks import positive
from analysis.fitting.drift import DriftingLaw
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.least_squares import Model, compute_covariance, minimise
from analysis.fitting.power_sum import power_sum
from analysis.fitting.results import WaldFit
from analysis.fitting.status import FitError, FitStatus, Warnings

_FLOOR_EXPONENTS = (1e-3, 2.0)
_BENDS = 0.01  # chance of calling a straight law bent
_EXACT = 1e-9  # scatter of ln y that is rounding
_EDGE = 1e-6  # of x: nearer to the last point is no extrapolation
SHARES = (0.02, 0.2, 0.4, 0.6, 0.75, 0.85, 0.92, 0.97, 0.995)  # floors to start from


@dataclass(frozen=True, kw_only=True, repr=False)
class PowerLaw(WaldFit):
    """y = coefficient * x^exponent. objective: the residual sum of squares of ln y.

    drifting: the same beyond the points, from three distinct x on.
    """

    x_name: str
    y_name: str
    x_range: tuple[float, float]
    r_squared: float
    drifting: DriftingLaw | None = field(default=None, repr=False, compare=False)

    @property
    def exponent(self) -> float:
        return self.estimates[1]

    @property
    def coefficient(self) -> float:
        return self.estimates[0]

    @property
    def floor(self) -> float:
        """It has none."""
        return float("nan")

    def predict(self, x: ArrayLike, level: float = 0.95) -> Prediction:
        """y at x, with the interval of the law there (not of a further point)."""
        log_x = np.log(np.atleast_1d(positive(self.x_name, x)))
        jacobian = np.stack([np.ones_like(log_x), log_x], axis=1)
        return self._predict_log(jacobian @ np.array(self.theta), jacobian, level)

    def extrapolate(self, x: ArrayLike, level: float = 0.95) -> Prediction:
        """y at x within the points as predict has it, and beyond them with an exponent that may
        drift (drift.py).
        """
        known = positive(self.x_name, x)
        return _beyond(self.drifting, self.x_range, known, self.predict(known, level))


@dataclass(frozen=True, kw_only=True, repr=False)
class FrontierFit(WaldFit):
    """L = E + A * C^-alpha, nats/token of the best run that a budget C in FLOPs buys.

    Hoffmann 2022 (arXiv:2203.15556), App. D.3 has the form. objective: residual sum of squares of
    ln L. drifting: the same beyond the points.
    """

    x_range: tuple[float, float]
    drifting: DriftingLaw = field(repr=False, compare=False)

    @property
    def exponent(self) -> float:
        """Exponent of C: -alpha."""
        return -self.estimates[2]

    @property
    def coefficient(self) -> float:
        return self.estimates[1]

    @property
    def floor(self) -> float:
        return self.estimates[0]

    def predict(self, budget: ArrayLike, level: float = 0.95) -> Prediction:
        """Loss at a budget, with the interval of the law there."""
        log_c = np.log(np.atleast_1d(positive("budget", budget)))
        value, jacobian = frontier_model(log_c)(np.array(self.theta)[None])
        return self._predict_log(value[0], jacobian[0], level)

    def extrapolate(self, budget: ArrayLike, level: float = 0.95) -> Prediction:
        """Loss within the budgets as predict has it, and beyond them with an exponent that may
        drift (drift.py).
        """
        known = positive("budget", budget)
        return _beyond(self.drifting, self.x_range, known, self.predict(known, level))


def _beyond(
    drifting: DriftingLaw | None, x_range: tuple[float, float], x: Array, inside: Prediction
) -> Prediction:
    """inside, at x (n,), but by the drifting law where x is out of x_range."""
    x = np.atleast_1d(x)
    low, high = x_range
    out = (x < low * (1 - _EDGE)) | (x > high * (1 + _EDGE))
    if drifting is None or not out.any():
        return inside
    there = drifting.predict(np.log(x[out]), inside.level)
    value, lower, upper = (ends.copy() for ends in inside[:3])
    for ends, found in zip((value, lower, upper), there[:3], strict=True):
        ends[out] = found
    return Prediction(value, lower, upper, inside.level)


def fit_power_law(
    x: ArrayLike,
    y: ArrayLike,
    *,
    x_name: str = "budget",
    y_name: str = "y",
    common: Array | None = None,
) -> PowerLaw:
    """By ordinary least squares of ln y on ln x. FitError below two distinct x.

    common (n, n): covariance of an error of ln y that the points share, and that the scatter about
    the law does not show; it is added to the parameters' covariance.
    Two points fit exactly and three leave one degree of freedom: both are flagged.
    """
    log_x, log_y = _logs(x, y, 2)
    warned = Warnings()
    if len(log_x) == 2:
        warned.add(f"2 {x_name}s: the line goes through both, and its error is unknown")
    elif len(log_x) == 3:
        warned.add(f"3 {x_name}s: one degree of freedom, the interval is wide and may be luck")
    design = np.stack([np.ones_like(log_x), log_x], axis=1)
    centre = log_x.mean()  # ln C near 40: the plain normal equations lose eight digits
    u = log_x - centre
    slope = float(u @ log_y / (u @ u))
    theta = np.array([log_y.mean() - slope * centre, slope])
    residuals = log_y - design @ theta
    dof = len(log_x) - 2
    variance = float(residuals @ residuals) / dof if dof > 0 else np.nan
    var_slope = variance / (u @ u)
    covariance = np.array(
        [
            [variance / len(u) + centre**2 * var_slope, -centre * var_slope],
            [-centre * var_slope, var_slope],
        ]
    )
    if common is not None:
        covariance = covariance + _carried(design, common)
    total = float(((log_y - log_y.mean()) ** 2).sum())
    if len(np.unique(log_x)) >= 4 and float(np.sqrt(residuals @ residuals / len(log_x))) > _EXACT:
        chance, first, last = _bend(log_x, log_y, common)
        if chance < _BENDS:
            warned.add(
                f"{y_name} bends (p={chance:.1g}): its exponent goes from {first:.2g} to "
                f"{last:.2g} over these {x_name}s, and a power law is off beyond them"
            )
    return PowerLaw(
        form=f"{y_name} = coefficient * {x_name}^exponent",
        names=("coefficient", "exponent"),
        estimates=(float(np.exp(theta[0])), slope),
        theta=tuple(theta.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        dof=dof,
        logs=("coefficient",),
        n_points=len(log_x),
        objective=float(residuals @ residuals),
        interval=_how(dof, common),
        status=warned.status,
        warnings=tuple(warned.texts),
        x_name=x_name,
        y_name=y_name,
        x_range=(float(np.exp(log_x.min())), float(np.exp(log_x.max()))),
        r_squared=float(1 - residuals @ residuals / total) if total > 0 else float("nan"),
        drifting=DriftingLaw(log_x=log_x, log_y=log_y, common=common, has_floor=False)
        if len(np.unique(log_x)) >= 3
        else None,
    )


def _bend(log_x: Array, log_y: Array, common: Array | None) -> tuple[float, float, float]:
    """Fits a parabola in ln x: the chance of its bend where the law is straight, by Student's t,
    and its exponent at the first and the last x. At four distinct x or more.
    """
    u = log_x - log_x.mean()
    design = np.stack([np.ones_like(u), u, u**2], axis=1)
    theta = np.asarray(np.linalg.lstsq(design, log_y)[0], dtype=np.float64)
    off, dof = log_y - design @ theta, len(u) - 3
    covariance = np.linalg.inv(design.T @ design) * float(off @ off) / dof
    if common is not None:
        covariance = covariance + _carried(design, common)
    _, slope, bend = theta.tolist()
    chance = float(2 * stats.t.sf(abs(bend) / np.sqrt(covariance[2, 2]), dof))
    return chance, slope + 2 * bend * float(u.min()), slope + 2 * bend * float(u.max())


def fit_frontier(budget: ArrayLike, loss: ArrayLike, *, common: Array | None = None) -> FrontierFit:
    """By least squares of ln L, from floors all over. FitError below four distinct budgets.

    common: as of fit_power_law, of ln L.
    """
    log_c, log_l = _logs(budget, loss, 4)
    centre = log_c.mean()
    model = frontier_model(log_c - centre)
    top = float(log_l.min())
    lower, upper = frontier_box(top)
    starts = frontier_starts(log_c - centre, log_l)
    minima = minimise(model, log_l, starts, lower=lower, upper=upper)
    theta, stuck = minima.theta[minima.best], minima.at_bound[minima.best]
    warned = Warnings()
    if stuck.any():
        if stuck[0] and theta[0] < top:
            text = (
                "the floor E cannot be distinguished from 0: the losses fall as a power of compute"
            )
        elif stuck[0]:
            text = "the floor E stopped at the lowest loss: not a power law with a floor"
        elif stuck[2]:
            text = f"alpha={theta[2]:.3g} is at the edge of {_FLOOR_EXPONENTS}"
        else:
            text = "A is at its bound: no power of compute describes these losses"
        warned.add(text, FitStatus.BOUND_HIT)
    if not minima.converged[minima.best]:
        warned.add("the descent did not converge", FitStatus.MAX_ITER)
    if len(log_c) == 4:
        warned.add("4 budgets for 3 parameters: one degree of freedom")
    natural = np.array([theta[0], theta[1] + theta[2] * centre, theta[2]])
    covariance, dof = compute_covariance(frontier_model(log_c), natural, log_l)
    if common is not None and np.isfinite(covariance).all():
        covariance = covariance + _carried(frontier_model(log_c)(natural[None])[1][0], common)
    E, A, alpha = np.exp(natural[0]), np.exp(natural[1]), natural[2]
    return FrontierFit(
        form="L = E + A * C^-alpha",
        names=("E", "A", "alpha"),
        estimates=(float(E), float(A), float(alpha)),
        theta=tuple(natural.tolist()),
        covariance=tuple(map(tuple, covariance.tolist())),
        dof=dof,
        logs=("E", "A"),
        n_points=len(log_c),
        objective=2 * float(minima.value[minima.best]),
        interval=_how(dof, common),
        status=warned.status,
        warnings=tuple(warned.texts),
        x_range=(float(np.exp(log_c.min())), float(np.exp(log_c.max()))),
        drifting=DriftingLaw(log_x=log_c, log_y=log_l, common=common, has_floor=True),
    )


def frontier_starts(
    x: Array, log_l: Array, shares: Sequence[float] = SHARES, on: np.ndarray | None = None
) -> Array:
    """theta = log E, log A, alpha (..., shares, 3) for a range of floors, as shares of the lowest
    loss: given E, a line in ln(L - E) through log_l (..., n) at x (n,), where `on` is True.
    """
    weights = np.ones_like(log_l) if on is None else on.astype(np.float64)
    losses = np.where(weights > 0, np.exp(log_l), np.inf)
    E = losses.min(axis=-1)[..., None] * np.array(shares)
    known = weights[..., None, :]
    y = np.where(known > 0, np.log(losses[..., None, :] - E[..., None]), 0.0)
    total = known.sum(axis=-1)
    middle, level = (known * x).sum(axis=-1) / total, (known * y).sum(axis=-1) / total
    dx = known * (x - middle[..., None])
    slope = (dx * y).sum(axis=-1) / (dx**2).sum(axis=-1)
    alpha = np.maximum(-slope, _FLOOR_EXPONENTS[0])
    return np.stack([np.log(E), level - slope * middle, alpha], axis=-1)


def frontier_box(top: float) -> tuple[Array, Array]:
    """Lower and upper bounds of log E, log A, alpha; top: ln of the lowest loss, which E is not
    above.
    """
    low, high = _FLOOR_EXPONENTS
    return np.array([top - 12, top - 12, low]), np.array([top, top + 50, high])


def frontier_model(log_c: Array) -> Model:
    """log L = log(E + A C^-alpha) at these ln C, in theta = log E, log A, alpha."""
    zero, one = np.zeros_like(log_c), np.ones_like(log_c)
    return power_sum([np.stack([one, zero, zero], axis=1), np.stack([zero, one, -log_c], axis=1)])


def _carried(jacobian: Array, common: Array) -> Array:
    """Parameters' covariance (p, p) by least squares of points (n, p) that have this one."""
    scale = np.linalg.norm(jacobian, axis=0)
    inverse = np.linalg.pinv(jacobian / scale) / scale[:, None]
    values, vectors = np.linalg.eigh(common)
    root = inverse @ (vectors * np.sqrt(np.maximum(values, 0.0)))  # no variance below 0 by rounding
    return np.asarray(root @ root.T, dtype=np.float64)


def _how(dof: int, common: Array | None) -> str:
    shared = "" if common is None else ", and from the error that the points share"
    return f"Student's t, {dof} degrees of freedom, from the scatter about the law{shared}"


def _logs(x: ArrayLike, y: ArrayLike, n_least: int) -> tuple[Array, Array]:
    xs, ys = positive("x", x).ravel(), positive("y", y).ravel()
    if len(xs) != len(ys):
        raise ValueError(f"{len(xs)} x for {len(ys)} y")
    n_distinct = len(np.unique(xs))
    if n_distinct < n_least:
        raise FitError(f"{n_distinct} distinct budgets: this law needs at least {n_least}")
    return np.log(xs), np.log(ys)
