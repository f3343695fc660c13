"""Where the lowest point of a curve is once its losses are drawn again: by parabola or Akima."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.isoflop.akima import akima_minimum
from analysis.isoflop.methods import Method, Single
from analysis.isoflop.shape import columns, lowest


def nearest(u: Array, losses: Array, n_nearest: int | None) -> np.ndarray:
    """Indices, in order of size, of the n sizes nearest on the log scale to the best one."""
    if n_nearest is None or n_nearest >= len(u):
        return np.arange(len(u))
    distance = np.abs(u - u[losses.argmin()])
    return np.sort(np.argsort(distance, kind="stable")[:n_nearest])


def redrawn_minima(
    u: Array, losses: Array, method: Single, noise: float, n_draws: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Minima u (S,) and losses (S,) with normal noise, in nats, added to every loss.

    Draws without a minimum inside the range are nan.
    """
    drawn = losses + rng.normal(0.0, noise, (n_draws, len(u)))
    return _minima(u, np.maximum(drawn, 1e-9), np.ones_like(drawn), method)


def resampled_minima(
    u: Array,
    losses: Array,
    method: Method,
    counts: Array,
    exponents: tuple[float, float] = (0.0, 0.0),
) -> tuple[Array, Array]:
    """Minima u (S,) and losses (S,) of the runs drawn as often as counts (S, n); nan as above.

    exponents: alpha and beta of slices, which are not fitted again.
    """
    return _minima(u, np.broadcast_to(losses, counts.shape), counts, method, exponents)


def _minima(
    u: Array,
    losses: Array,
    counts: Array,
    method: Method,
    exponents: tuple[float, float] = (0.0, 0.0),
) -> tuple[Array, Array]:
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
        scale = 1.0 if method == "slice" else float(np.abs(u - u.mean()).max())
        v = (u - u.mean()) / scale
        alpha, beta = (np.array([value]) for value in exponents)
        if method == "slice":
            X = columns(v, alpha, beta)[0]
        else:
            X = np.stack([v**2, v, np.ones_like(v)], axis=1)
        gram = np.einsum("sn,ni,nj->sij", counts, X, X, optimize=True)
        moments = np.einsum("sn,sn,ni->si", counts, losses, X, optimize=True)
        enough = (counts > 0).sum(axis=1) >= 3
        gram[~enough] = np.eye(3)
        a, slope, level = found = np.linalg.solve(gram, moments[..., None])[..., 0].T
        if method == "slice":
            vertex = lowest(a, slope, alpha, beta)
            places = np.where(np.isfinite(vertex), vertex, 0.0)
            at = columns(places[:, None], *_each(exponents, a))
            loss_opt = np.einsum("si,is->s", at[:, 0], found)
        else:
            with np.errstate(divide="ignore", invalid="ignore"):
                vertex = -slope / (2 * a)
                loss_opt = level - slope**2 / (4 * a)
        inside = enough & (a > 0) & (vertex >= v[0]) & (vertex <= v[-1])
        u_opt = u.mean() + vertex * scale
    return np.where(inside, u_opt, np.nan), np.where(inside, loss_opt, np.nan)


def _each(exponents: tuple[float, float], like: Array) -> tuple[Array, Array]:
    return np.full_like(like, exponents[0]), np.full_like(like, exponents[1])
