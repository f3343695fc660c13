"""The lowest point of a loss curve in u = ln(size): by a parabola or by interpolation.

Of one curve or of many resampled ones at once, and the warnings about it.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

import numpy as np
from scipy import stats
from scipy.interpolate import Akima1DInterpolator

from analysis.fitting.intervals import Array

Method = Literal["parabola", "akima"]
METHODS = ("parabola", "akima")
MISFIT = 0.02  # nats/token: what a seed changes at small scale (docs/small-scale.md)
MIN_POINTS = 4  # three determine a parabola and leave no residual
_GRID = 25  # Porian 2024 (arXiv:2406.19146): 25 grid points an interval between sizes
_OUTLIER = 0.01  # chance of calling a good point one, over all the points of a curve


class Flag(StrEnum):
    """A kind of warning about a curve's minimum."""

    FEW_POINTS = "few points"
    WRONG_CURVATURE = "wrong curvature"
    WEAK_CURVATURE = "weak curvature"
    WIDE = "wide interval"
    OUTSIDE = "outside the range"
    EDGE = "best at an edge"
    OFF_CENTRE = "off-centre"
    OUTLIER = "outlier"
    MISFIT = "misfit"


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """loss = a (u - centre)^2 + slope (u - centre) + level; unscaled is (X'X)^-1 of these three."""

    centre: float  # centred: u near 15 makes the plain normal equations ill-conditioned
    a: float
    slope: float
    level: float
    unscaled: Array

    @property
    def u_opt(self) -> float:
        return self.centre - self.slope / (2 * self.a) if self.a > 0 else float("nan")

    @property
    def loss_opt(self) -> float:
        return self.level - self.slope**2 / (4 * self.a) if self.a > 0 else float("nan")

    def loss(self, u: Array) -> Array:
        v = u - self.centre
        return self.a * v**2 + self.slope * v + self.level

    def u_interval(self, sd: float, t: float) -> tuple[float, float]:
        """Fieller's: where the slope does not differ significantly from 0; unbounded if a does not.

        sd: of a loss about the curve, t: the quantile. nan if either is.
        """
        variance = (t * sd) ** 2 * self.unscaled
        if not np.isfinite(variance).all():
            return float("nan"), float("nan")
        quadratic = 4 * (self.a**2 - variance[0, 0])
        linear = 4 * (self.a * self.slope - variance[0, 1])
        constant = self.slope**2 - variance[1, 1]
        if quadratic <= 0 or self.a <= 0:
            return -np.inf, np.inf
        half = np.sqrt(max(linear**2 - 4 * quadratic * constant, 0.0)) / (2 * quadratic)
        middle = self.centre - linear / (2 * quadratic)
        return float(middle - half), float(middle + half)

    def loss_interval(self, sd: float, t: float) -> tuple[float, float]:
        """Of the lowest loss; its place's error does not matter, for the slope is 0 there."""
        half = t * float(self.loss_error(np.array([self.u_opt]), sd)[0])
        return self.loss_opt - half, self.loss_opt + half

    def loss_error(self, u: Array, sd: float) -> Array:
        """Standard error of the curve at u (n,)."""
        v = u - self.centre
        at = np.stack([v**2, v, np.ones_like(v)], axis=1)
        return sd * np.sqrt(np.einsum("ni,ij,nj->n", at, self.unscaled, at))

    def u_error(self, sd: float) -> float:
        """Standard error of u_opt by the delta method; nan where there is no minimum."""
        if not self.a > 0:
            return float("nan")
        gradient = np.array([self.slope / (2 * self.a**2), -1 / (2 * self.a), 0.0])
        return sd * float(np.sqrt(gradient @ self.unscaled @ gradient))


@dataclass(frozen=True, kw_only=True)
class Parabola(Quadratic):
    """A fitted one. residuals, leverage: of its points."""

    residuals: Array
    leverage: Array

    @property
    def rmse(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))


def fit_parabola(u: Array, losses: Array) -> Parabola:
    """Least squares, at three points or more."""
    centre = float(u.mean())
    v = u - centre
    scale = float(np.abs(v).max())
    X = np.stack([(v / scale) ** 2, v / scale, np.ones_like(v)], axis=1)
    coefficients, *_ = np.linalg.lstsq(X, losses, rcond=None)
    # Of losses that are all the same, curvature and slope are rounding, of whatever sign
    rounding = 100 * np.finfo(np.float64).eps * np.abs(losses).max()
    coefficients[:2] = np.where(np.abs(coefficients[:2]) < rounding, 0.0, coefficients[:2])
    units = np.array([scale**-2, 1 / scale, 1.0])
    a, slope, level = coefficients * units
    inverse = np.linalg.inv(X.T @ X)
    return Parabola(
        centre=centre,
        a=float(a),
        slope=float(slope),
        level=float(level),
        unscaled=np.asarray(inverse * np.outer(units, units), dtype=np.float64),
        residuals=losses - X @ coefficients,
        leverage=np.einsum("ni,ij,nj->n", X, inverse, X),
    )


def akima_minimum(u: Array, losses: Array) -> tuple[Array, Array, np.ndarray]:
    """The lowest points (S,) of curves through losses (S, n) at u (n,), and whether at an end.

    Interpolates ln(loss); the lowest of a grid of 25 points an interval, as Porian's code.
    """
    grid = np.linspace(u[0], u[-1], _GRID * (len(u) - 1))
    values = Akima1DInterpolator(u, np.log(losses).T)(grid)
    lowest = values.argmin(axis=0)
    at_end = (lowest == 0) | (lowest == len(grid) - 1)
    return grid[lowest], np.exp(values.min(axis=0)), at_end


def akima_intervals(
    u: Array, losses: Array, noise: float, t: float, n_draws: int, rng: np.random.Generator
) -> tuple[tuple[float, float], tuple[float, float]]:
    """95 % intervals of the place (as u) and the loss of akima_minimum, by redrawing the noise.

    The place's is at least a step of the grid wide, and open on a side at whose end more than a
    fortieth of the draws are. The lowest of noisy losses is too low, and lower when noise is added
    again: the loss's interval is shifted up by as much. nan without noise or draws.
    """
    if not (np.isfinite(noise) and n_draws):
        return (np.nan, np.nan), (np.nan, np.nan)
    drawn = np.maximum(losses + rng.normal(0.0, noise, (n_draws, len(u))), 1e-9)
    places, values, _ = akima_minimum(u, drawn)
    half_step = (u[-1] - u[0]) / (_GRID * (len(u) - 1) - 1) / 2
    low, high = np.quantile(places, [0.025, 0.975]) + np.array([-half_step, half_step])
    low = -np.inf if np.mean(places <= u[0]) > 0.025 else low
    high = np.inf if np.mean(places >= u[-1]) > 0.025 else high
    middle = 2 * akima_minimum(u, losses[None])[1][0] - values.mean()
    half = t * values.std()
    return (float(low), float(high)), (float(middle - half), float(middle + half))


def nearest(u: Array, losses: Array, n_nearest: int | None) -> np.ndarray:
    """Indices, in order of size, of the n sizes nearest on the log scale to the best one."""
    if n_nearest is None or n_nearest >= len(u):
        return np.arange(len(u))
    distance = np.abs(u - u[losses.argmin()])
    return np.sort(np.argsort(distance, kind="stable")[:n_nearest])


def redrawn_minima(
    u: Array, losses: Array, method: Method, noise: float, n_draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Minima u (S,) and losses (S,) with normal noise, in nats, added to every loss.

    Draws without a minimum inside the range are nan.
    """
    drawn = losses + rng.normal(0.0, noise, (n_draws, len(u)))
    return _minima(u, np.maximum(drawn, 1e-9), np.ones_like(drawn), method)


def resampled_minima(
    u: Array, losses: Array, method: Method, n_draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Minima u (S,) and losses (S,) of the runs drawn with replacement; nan as above."""
    n = len(u)
    counts = rng.multinomial(n, np.full(n, 1 / n), size=n_draws).astype(np.float64)
    return _minima(u, np.broadcast_to(losses, counts.shape), counts, method)


def _minima(u: Array, losses: Array, counts: Array, method: Method) -> tuple[Array, Array]:
    n_draws = len(losses)
    if method == "akima":
        u_opt, loss_opt = np.full(n_draws, np.nan), np.full(n_draws, np.nan)
        inside = np.zeros(n_draws, dtype=bool)
        # Draws that have the same sizes are interpolated at once: there are few such sets
        sets, which = np.unique(counts > 0, axis=0, return_inverse=True)
        for k, on in enumerate(sets):
            if on.sum() >= 3:
                rows = np.flatnonzero(which == k)
                place, value, at_end = akima_minimum(u[on], losses[np.ix_(rows, on)])
                u_opt[rows], loss_opt[rows], inside[rows] = place, value, ~at_end
    else:
        centre = u.mean()
        v = (u - centre) / np.abs(u - centre).max()
        X = np.stack([v**2, v, np.ones_like(v)], axis=1)
        gram = np.einsum("sn,ni,nj->sij", counts, X, X, optimize=True)
        moments = np.einsum("sn,sn,ni->si", counts, losses, X, optimize=True)
        enough = (counts > 0).sum(axis=1) >= 3
        gram[~enough] = np.eye(3)
        a, slope, level = np.linalg.solve(gram, moments[..., None])[..., 0].T
        with np.errstate(divide="ignore", invalid="ignore"):
            vertex = -slope / (2 * a)
            loss_opt = level - slope**2 / (4 * a)
        inside = enough & (a > 0) & (vertex >= v[0]) & (vertex <= v[-1])
        u_opt = centre + vertex * np.abs(u - centre).max()
    return np.where(inside, u_opt, np.nan), np.where(inside, loss_opt, np.nan)


def check_minimum(
    u: Array,
    losses: Array,
    parabola: Parabola,
    u_opt: float,
    method: Method,
    u_interval: tuple[float, float],
) -> list[tuple[Flag, str]]:
    """Every flag that the curve earns, with its reason in words.

    u_interval: 95 %, of u_opt; infinite where the curvature is not significantly different from 0,
    nan if the scatter is unknown.
    """
    found = []
    n = len(u)
    if n < MIN_POINTS:
        found.append((Flag.FEW_POINTS, f"{n} sizes: no residual to judge the parabola by"))
    if method == "parabola" and not parabola.a > 0:
        text = "the parabola opens downwards: no minimum"
        return [*found, (Flag.WRONG_CURVATURE, text)]
    best = int(losses.argmin())
    inside = bool(u[0] <= u_opt <= u[-1])
    if not inside:
        found.append((Flag.OUTSIDE, "the minimum lies outside the sizes tried"))
    if best in (0, n - 1):
        end = "smallest" if best == 0 else "largest"
        found.append((Flag.EDGE, f"the {end} size is the best: try beyond it"))
    elif inside:
        below, above = int((u < u_opt).sum()), int((u > u_opt).sum())
        if min(below, above) < 2 and n >= MIN_POINTS:
            side = "smaller" if below < above else "larger"
            found.append((Flag.OFF_CENTRE, f"one size only is {side} than the minimum"))
    if np.isinf(u_interval).any():
        text = "the curvature is not significantly different from 0: the minimum may be anywhere"
        found.append((Flag.WEAK_CURVATURE, text))
    elif inside and (u_interval[0] < u[0] or u_interval[1] > u[-1]):
        text = "the 95 % interval of the minimum reaches beyond the sizes tried"
        found.append((Flag.WIDE, text))
    if method == "parabola" and parabola.rmse > MISFIT:
        text = f"the points are {parabola.rmse:.3f} nats off it (rms): not a parabola"
        found.append((Flag.MISFIT, text))
    outlier = _outlier(parabola) if n >= 6 and method == "parabola" else None
    if outlier is not None:
        size = np.exp(u[outlier])
        off = parabola.residuals[outlier]
        found.append((Flag.OUTLIER, f"the run at size {size:.4g} is {off:+.3f} nats off the rest"))
    return found


def _outlier(parabola: Parabola) -> int | None:
    """The point that the others' parabola does not expect, by its deleted studentised residual."""
    r, h = parabola.residuals, parabola.leverage
    dof = len(r) - 4
    rest = (r @ r) * (1 - h) - r**2  # the others' squares, times 1 - h
    if r @ r < 1e-18:
        return None
    t = np.abs(r) * np.sqrt(dof / np.maximum(rest, 1e-300))
    worst = int(t.argmax())
    return worst if t[worst] > stats.t.ppf(1 - _OUTLIER / (2 * len(r)), dof) else None
