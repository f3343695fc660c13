"""Beyond the points of a power law, where its exponent may drift.

A power law that fits its points need not go on beyond them, and its own interval is of noise alone.
So beyond them the exponent is a random walk in ln x: over a factor ten of x it changes by DRIFT of
itself, as one standard deviation. What the points say of it counts, and what they do not say is in
the interval. (The mean of such walks is a cubic smoothing spline: Wahba 1990, Spline Models for
Observational Data.)

Three things are averaged over and not estimated: the walk, the scatter s about the law, with
density 1/s, and the floor E of a loss, as likely anywhere from 0 to the lowest loss.

DRIFT was chosen on surfaces whose exponents do change (docs/isoflop.md has them and the coverage);
of a true power law it makes intervals about four times as wide as noise alone.
"""

from dataclasses import dataclass

import numpy as np
from scipy import special

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Array, Prediction

DRIFT = 0.15  # of an exponent over a factor ten of x, as a share of itself
_SCATTERS = np.geomspace(1e-2, 30.0, 48)  # beside the scatter about the straight law
_FLOORS = np.linspace(0.0, 1.0, 42)[:-1]  # shares of the lowest loss
_EXACT = 1e-7  # scatter of ln y: beside less, the walk's covariance is singular by rounding
_WEIGHTLESS = 1e-9
_REACH = 12.0  # standard deviations
_HALVED = 50  # times


@dataclass(frozen=True, kw_only=True)
class DriftingLaw:
    """ln(y - E) = level + slope u + walk(u), u = log10 x from the least x that matters.

    log_x, log_y (n,): natural logarithms of three points or more, four with a floor; common (n, n):
    covariance of an error of ln y that the points share; has_floor: whether E may be above 0.
    """

    log_x: Array
    log_y: Array
    has_floor: bool
    common: Array | None = None

    def predict(self, log_x: Array, level: float = 0.95) -> Prediction:
        """Median of y at ln x (m,), and its central interval."""
        check_level(level)
        laws = self._averaged(np.asarray(log_x, dtype=np.float64))
        value, lower, upper = (
            _quantile(share, *laws) for share in (0.5, (1 - level) / 2, (1 + level) / 2)
        )
        return Prediction(value, lower, upper, level)

    def _averaged(self, at: Array) -> tuple[Array, Array, Array, Array]:
        """Floors and weights (K,) of what is averaged over; at the places `at`, means and spreads
        (K, m) of ln(y - E).
        """
        origin = min(self.log_x.min(), at.min())
        u, far = (self.log_x - origin) / np.log(10), (at - origin) / np.log(10)
        X, X_far = (np.stack([np.ones_like(places), places], axis=1) for places in (u, far))
        y = np.exp(self.log_y)
        floors = y.min() * (_FLOORS if self.has_floor else _FLOORS[:1])
        z = np.log(y - floors[:, None])
        gain = y / (y - floors[:, None])  # of an error of ln y in ln(y - E)
        straight = np.linalg.lstsq(X, z.T, rcond=None)[0]
        off = (z - (X @ straight).T) / gain
        about = np.sqrt((off**2).sum(axis=1) / max(len(u) - 2, 1))
        size = (DRIFT * straight[1]) ** 2
        K, K_far = (size[:, None, None] * _walk(places, u) for places in (u, far))
        scatter = np.maximum(about[:, None] * _SCATTERS, _EXACT)
        V = scatter[..., None, None] ** 2 * np.eye(len(u))
        if self.common is not None:
            V = V + self.common
        V = V * (gain[:, :, None] * gain[:, None, :])[:, None] + K[:, None]
        root = np.linalg.cholesky(V)  # (floors, scatters, n, n)

        def whitened(columns: Array) -> Array:
            every = np.broadcast_to(columns, (*V.shape[:2], *columns.shape[-2:]))
            return np.asarray(np.linalg.solve(root, every), dtype=np.float64)

        Xw, zw = whitened(X), whitened(z[:, None, :, None])
        Kw = whitened(np.swapaxes(K_far, 1, 2)[:, None])
        Xt, Kt = np.swapaxes(Xw, -1, -2), np.swapaxes(Kw, -1, -2)
        precision = Xt @ Xw
        inverse = np.linalg.inv(precision)
        line = inverse @ Xt @ zw  # level and slope
        left = zw - Xw @ line
        logs = (
            np.log(gain).sum(axis=1)[:, None]
            - np.log(np.diagonal(root, axis1=-2, axis2=-1)).sum(axis=-1)
            - np.linalg.slogdet(precision)[1] / 2
            - (left**2).sum(axis=(-2, -1)) / 2
        )
        mean = (X_far @ line + Kt @ left)[..., 0]
        rest = X_far - Kt @ Xw
        of_walk = size[:, None] * np.diag(_walk(far, far))
        variance = np.einsum("...mi,...ij,...mj->...m", rest, inverse, rest)
        variance += np.maximum(of_walk[:, None] - (Kw**2).sum(axis=-2), 0.0)
        weights = np.exp(logs - special.logsumexp(logs)).ravel()
        kept = weights > _WEIGHTLESS
        every = np.repeat(floors, len(_SCATTERS))
        m = len(at)
        return (
            every[kept],
            weights[kept] / weights[kept].sum(),
            mean.reshape(-1, m)[kept],
            np.sqrt(variance).reshape(-1, m)[kept],
        )


def _walk(a: Array, b: Array) -> Array:
    """Covariance (len(a), len(b)) of a random walk that is summed up to a and to b, from 0."""
    low, high = np.minimum(a[:, None], b), np.maximum(a[:, None], b)
    return np.asarray(low**2 * (3 * high - low) / 6)


def _quantile(share: float, floors: Array, weights: Array, means: Array, spreads: Array) -> Array:
    """A quantile of y (m,), a mixture of floors and lognormals, by halving an interval of ln y."""
    with np.errstate(divide="ignore"):  # the logarithm of no floor
        ends = np.log([floors.min(), floors.max()])
    low = np.logaddexp(ends[0], (means - _REACH * spreads).min(axis=0))
    high = np.logaddexp(ends[1], (means + _REACH * spreads).max(axis=0))
    for _ in range(_HALVED):
        middle = (low + high) / 2
        above = np.exp(middle) - floors[:, None]
        known = above > 0
        below = special.ndtr((np.log(np.where(known, above, 1.0)) - means) / spreads)
        under = weights @ np.where(known, below, 0.0) < share
        low, high = np.where(under, middle, low), np.where(under, high, middle)
    return np.asarray(np.exp((low + high) / 2))
