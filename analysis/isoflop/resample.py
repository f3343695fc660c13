"""Where the lowest point of a curve is once its losses are drawn again: by parabola or Akima."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.isoflop.akima import akima_minimum
from analysis.isoflop.methods import Single
from analysis.isoflop.shape import columns, lowest


def nearest(u: Array, losses: Array, n_nearest: int | None) -> np.ndarray:
    """Indices, in order of size, of the n sizes nearest on the log scale to the best one."""
    if n_nearest is None or n_nearest >= len(u):
        return np.arange(len(u))
    distance = np.abs(u - u[losses.argmin()])
    return np.sort(np.argsort(distance, kind="stable")[:n_nearest])


def redrawn_minima(
    u: Array,
    losses: Array,
    method: Single,
    weights: Array,
    noise: float,
    n_draws: int,
    rng: np.random.Generator,
) -> tuple[Array, Array]:
    """Minima u (S,) and losses (S,) with normal noise added to every loss; noise: that of a run in
    nats, of which a loss is the mean over weights (n,).

    Draws without a minimum inside the range are nan.
    """
    drawn = losses + rng.normal(0.0, noise / np.sqrt(weights), (n_draws, len(u)))
    return _minima(u, np.maximum(drawn, 1e-9), np.broadcast_to(weights, drawn.shape), method)


def resampled_minima(u: Array, losses: Array, method: Single, counts: Array) -> tuple[Array, Array]:
    """Minima u (S,) and losses (S,) of the runs drawn as often as counts (S, n); nan as above."""
    return _minima(u, np.broadcast_to(losses, counts.shape), counts, method)


def resampled_slices(
    u: Array, losses: Array, counts: Array, alpha: float, beta: float
) -> tuple[Array, Array]:
    """Same of skewed curves, whose exponents are not fitted again."""
    v = u - u.mean()
    exponents = np.array([alpha]), np.array([beta])
    found, enough = _solve(columns(v, *exponents)[0], np.broadcast_to(losses, counts.shape), counts)
    vertex = lowest(found[:, 0], found[:, 1], *exponents)
    inside = enough & (vertex >= v[0]) & (vertex <= v[-1])
    at = columns(np.where(inside, vertex, 0.0), *exponents)[0]
    loss_opt = np.einsum("si,si->s", at, found)
    return np.where(inside, u.mean() + vertex, np.nan), np.where(inside, loss_opt, np.nan)


def _minima(u: Array, losses: Array, counts: Array, method: Single) -> tuple[Array, Array]:
    return (_by_akima if method == "akima" else _by_parabola)(u, losses, counts)


def _by_akima(u: Array, losses: Array, counts: Array) -> tuple[Array, Array]:
    n_draws = len(losses)
    u_opt, loss_opt = np.full(n_draws, np.nan), np.full(n_draws, np.nan)
    # Draws that have the same sizes are interpolated at once: there are few such sets
    sets, which = np.unique(counts > 0, axis=0, return_inverse=True)
    for k, on in enumerate(sets):
        if on.sum() >= 3:
            rows = np.flatnonzero(which == k)
            place, value, at_end = akima_minimum(u[on], losses[np.ix_(rows, on)])
            u_opt[rows] = np.where(at_end, np.nan, place)
            loss_opt[rows] = np.where(at_end, np.nan, value)
    return u_opt, loss_opt


def _by_parabola(u: Array, losses: Array, counts: Array) -> tuple[Array, Array]:
    scale = np.abs(u - u.mean()).max()
    v = (u - u.mean()) / scale
    found, enough = _solve(np.stack([v**2, v, np.ones_like(v)], axis=1), losses, counts)
    a, slope, level = found.T
    with np.errstate(divide="ignore", invalid="ignore"):
        vertex = -slope / (2 * a)
        loss_opt = level - slope**2 / (4 * a)
    inside = enough & (a > 0) & (vertex >= v[0]) & (vertex <= v[-1])
    return np.where(inside, u.mean() + vertex * scale, np.nan), np.where(inside, loss_opt, np.nan)


def _solve(X: Array, losses: Array, counts: Array) -> tuple[Array, np.ndarray]:
    """Least squares of losses (S, n) on X (n, 3), weighted by counts (S, n): coefficients (S, 3),
    and whether a draw has three sizes, which they need.
    """
    gram = np.einsum("sn,ni,nj->sij", counts, X, X, optimize=True)
    moments = np.einsum("sn,sn,ni->si", counts, losses, X, optimize=True)
    enough = (counts > 0).sum(axis=1) >= 3
    gram[~enough] = np.eye(3)
    return np.linalg.solve(gram, moments[..., None])[..., 0], enough
