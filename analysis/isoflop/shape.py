"""Curve of a budget in u = ln(size): a parabola, or a slice of Chinchilla's surface."""

from dataclasses import dataclass

import numpy as np

from analysis.fitting.intervals import Array

SAME = 1e-6  # of ln(size): sizes so near are equal but for rounding
_STEP = 1e-4  # of exponents, for derivatives


def columns(v: Array, alpha: Array, beta: Array) -> Array:
    """q, s and 1 at v, (n,) for all or (G, n), for exponents (G,): (G, n, 3). Neither these nor
    their sum may be 0; of a negative one the curve flattens away from its lowest point.

    s = (e^(beta v) - e^(-alpha v)) / (alpha + beta) and
    q = 2 (alpha e^(beta v) + beta e^(-alpha v) - alpha - beta) / (alpha beta (alpha + beta)),
    whose limits for small exponents are v and v^2.
    """
    a, b = alpha[:, None], beta[:, None]
    up, down = np.expm1(b * v), np.expm1(-a * v)
    s = (up - down) / (a + b)
    q = 2 * (a * up + b * down) / (a * b * (a + b))
    return np.stack([q, s, np.ones_like(q)], axis=2)


def columns_at(v: Array, alpha: float, beta: float) -> Array:
    """Columns (n, 3) at v (n,) for one pair of exponents."""
    return columns(v, np.array([alpha]), np.array([beta]))[0]


def along_exponents(v: Array, alpha: float, beta: float, numbers: Array) -> Array:
    """How a curve of these numbers (3,) at v (n,) moves with alpha and with beta: (n, 2)."""
    at = columns_at(v, alpha, beta)
    moved = [columns_at(v, *pair) for pair in ((alpha + _STEP, beta), (alpha, beta + _STEP))]
    return np.stack([(one - at) @ numbers / _STEP for one in moved], axis=1)


def lowest(a: Array, slope: Array, alpha: Array, beta: Array) -> Array:
    """v of the lowest point of a q + slope s, exponents as `columns` has them.

    nan where it opens downwards; infinite where it falls, or rises, all the way.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        left, right = 2 * a - slope * alpha, 2 * a + slope * beta
        v = np.log(np.maximum(left, 0.0) / np.maximum(right, 0.0)) / (alpha + beta)
    return np.where(a > 0, v, np.nan)


@dataclass(frozen=True, kw_only=True)
class Shape:
    """loss = a q(v) + slope s(v) + level, v = u - centre; unscaled: (X'X)^-1 of these three.

    At C = kND, E + A/N^alpha + B/D^beta (Hoffmann 2022, eq. 2) is a sum of 1, e^(-alpha u) and
    e^(beta u), as q, s and 1 are (`columns`); a, slope and level are half its curvature, its slope
    and its loss at centre. A parabola is its limit: alpha and beta are 0 then.
    """

    centre: float  # centred: u near 15 makes the plain normal equations ill-conditioned
    a: float
    slope: float
    level: float
    unscaled: Array
    alpha: float = 0.0
    beta: float = 0.0

    @property
    def is_parabola(self) -> bool:
        return self.alpha == self.beta == 0

    @property
    def u_opt(self) -> float:
        """nan where there is no lowest point."""
        if not self.a > 0:
            return float("nan")
        if self.is_parabola:
            return self.centre - self.slope / (2 * self.a)
        given = (np.array([value]) for value in (self.a, self.slope, self.alpha, self.beta))
        v = float(lowest(*given)[0])
        return self.centre + v if np.isfinite(v) else float("nan")

    @property
    def loss_opt(self) -> float:
        if self.is_parabola:
            return self.level - self.slope**2 / (4 * self.a) if self.a > 0 else float("nan")
        return float(self.loss(np.array([self.u_opt]))[0])

    def loss(self, u: Array) -> Array:
        at = self._columns(u)
        return self.a * at[..., 0] + self.slope * at[..., 1] + self.level

    def _columns(self, u: Array) -> Array:
        v = np.asarray(u - self.centre, dtype=np.float64)
        if self.is_parabola:
            return np.stack([v**2, v, np.ones_like(v)], axis=-1)
        return columns_at(v.ravel(), self.alpha, self.beta).reshape(*v.shape, 3)

    def loss_error(self, u: Array, sd: float) -> Array:
        """Standard error of the curve at u (n,), its exponents taken as known."""
        at = self._columns(u)
        return sd * np.sqrt(np.einsum("ni,ij,nj->n", at, self.unscaled, at))

    def loss_interval(self, sd: float, t: float) -> tuple[float, float]:
        """Interval of the lowest loss; its place's error does not matter: the slope is 0 there."""
        half = t * float(self.loss_error(np.array([self.u_opt]), sd)[0])
        return self.loss_opt - half, self.loss_opt + half

    def u_interval(self, sd: float, t: float) -> tuple[float, float]:
        """Fieller's interval, of a parabola: where the slope does not differ significantly from 0.

        Unbounded if a does not.

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

    def u_error(self, sd: float) -> float:
        """Standard error of a parabola's u_opt by the delta method; nan without a minimum."""
        if not self.a > 0:
            return float("nan")
        gradient = np.array([self.slope / (2 * self.a**2), -1 / (2 * self.a), 0.0])
        return sd * float(np.sqrt(gradient @ self.unscaled @ gradient))


@dataclass(frozen=True, kw_only=True)
class FittedShape(Shape):
    """A shape by least squares. residuals, leverage (n,): of its points; weights (n,): how many
    runs each is the mean of.
    """

    residuals: Array
    leverage: Array
    weights: Array

    @property
    def scaled(self) -> Array:
        """Residuals in the noise of one run, which that of a mean is a part of."""
        return self.residuals * np.sqrt(self.weights)

    @property
    def rmse(self) -> float:
        return float(np.sqrt(np.mean(self.residuals**2)))


def compute_gradient(shape: Shape) -> Array:
    """Slopes (3,) of a skewed curve's lowest point along a, slope and level; nan without one."""
    left = 2 * shape.a - shape.slope * shape.alpha
    right = 2 * shape.a + shape.slope * shape.beta
    if not (shape.a > 0 and left > 0 and right > 0):
        return np.full(3, np.nan)
    found = np.array([2 / left - 2 / right, -shape.alpha / left - shape.beta / right, 0.0])
    return np.asarray(found / (shape.alpha + shape.beta), dtype=np.float64)


def fit_parabola(u: Array, losses: Array, weights: Array | None = None) -> FittedShape:
    """Least squares, at three points or more. weights (n,): runs that a point is the mean of."""
    weights = np.ones(len(u)) if weights is None else weights
    root = np.sqrt(weights)
    centre = float(u.mean())
    v = u - centre
    scale = float(np.abs(v).max())
    X = np.stack([(v / scale) ** 2, v / scale, np.ones_like(v)], axis=1)
    coefficients, *_ = np.linalg.lstsq(X * root[:, None], losses * root, rcond=None)
    # Of losses that are all the same, curvature and slope are rounding, of whatever sign
    rounding = 100 * np.finfo(np.float64).eps * np.abs(losses).max()
    coefficients[:2] = np.where(np.abs(coefficients[:2]) < rounding, 0.0, coefficients[:2])
    units = np.array([scale**-2, 1 / scale, 1.0])
    a, slope, level = coefficients * units
    inverse = np.linalg.inv(X.T @ (X * weights[:, None]))
    return FittedShape(
        centre=centre,
        a=float(a),
        slope=float(slope),
        level=float(level),
        unscaled=np.asarray(inverse * np.outer(units, units), dtype=np.float64),
        residuals=losses - X @ coefficients,
        weights=weights,
        leverage=weights * np.einsum("ni,ij,nj->n", X, inverse, X),
    )
