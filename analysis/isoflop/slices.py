"""Skewed curves: slices of Chinchilla's surface, whose two exponents a model's budgets share.

A parabola's minimum is off where the sizes reach far: of a curve that rises faster on one side it
is too far on the other. At C = kND the surface E + A/N^alpha + B/D^beta (Hoffmann 2022,
arXiv:2203.15556, eq. 2) has the same shape at each budget, up to place, height and scale. So alpha
and beta are fitted to all curves of a model at once, and the three numbers of a curve are its own.

Few runs tell alpha and beta well. So they are averaged over EXPONENTS, all values as likely before
the runs are seen, and weighted by how well the curves fit then. The curves shown are at the mean,
and intervals are of draws from that average. Where the runs say little the mean is the middle of
the range, a symmetric curve, and the intervals say how skewed it may be.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fitting.intervals import Array
from analysis.isoflop.shape import FittedShape, columns, lowest

EXPONENTS = (0.01, 1.5)  # published ones are .2 to .7
LEAST_DOF = 3  # below it the curves' own scatter says nothing beside two exponents
_NODES = 16  # a side of the grid of exponents
_ENOUGH = 40  # nodes that carry weight, or the grid is narrowed
_NARROWED = 12  # times at most: each makes the step up to seven times smaller
_WEIGHTLESS = 10.0  # log of a weight beside the largest


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One budget's curve. shape: at the mean exponents.

    draws (S, 5): alpha, beta, a, slope, level; u, losses (S,): the minima of the draws, u infinite
    or nan where there is none, losses nan there; common_u, common_losses (S,): of the draws'
    exponents alone, with the curve's own three numbers at their best.
    """

    shape: FittedShape
    draws: Array
    u: Array
    losses: Array
    common_u: Array
    common_losses: Array


@dataclass(frozen=True, kw_only=True)
class SliceFit:
    """The slices of one model; squares: the residual sum of squares at the best exponents."""

    slices: tuple[Slice, ...]
    squares: float


@dataclass(frozen=True, kw_only=True)
class _Nodes:
    """Least squares of each curve at exponents (G,): coefficients (G, 3), inverse (G, 3, 3)."""

    alpha: Array
    beta: Array
    coefficients: list[Array]
    inverses: list[Array]
    squares: Array

    @staticmethod
    def at(alpha: Array, beta: Array, u: Sequence[Array], losses: Sequence[Array]) -> "_Nodes":
        coefficients, inverses = [], []
        squares = np.zeros(len(alpha))
        for places, values in zip(u, losses, strict=True):
            X = columns(places - places.mean(), alpha, beta)
            inverse = np.asarray(np.linalg.inv(np.swapaxes(X, 1, 2) @ X), dtype=np.float64)
            about = values - values.mean()  # or the squares lose eight digits
            found = np.einsum("gij,gnj,n->gi", inverse, X, about, optimize=True)
            squares += ((about - np.einsum("gni,gi->gn", X, found)) ** 2).sum(axis=1)
            coefficients.append(found + np.array([0.0, 0.0, values.mean()]))
            inverses.append(inverse)
        rounding = [np.finfo(np.float64).eps * np.abs(values).max() for values in losses]
        floor = sum(len(values) * r**2 for values, r in zip(losses, rounding, strict=True))
        return _Nodes(
            alpha=alpha,
            beta=beta,
            coefficients=coefficients,
            inverses=inverses,
            squares=squares + floor,
        )

    def log_weights(self, sd: float, dof: int, known: bool) -> Array:
        """By a normal distribution for known noise; else Student's t, the noise averaged out."""
        if not known:
            return -dof / 2 * np.log(self.squares)
        return -self.squares / (2 * sd**2) if sd > 0 else np.zeros(len(self.squares))


def fit_slices(
    u: Sequence[Array],
    values: Sequence[Array],
    noise: tuple[float, int] | None,
    n_draws: int,
    rng: np.random.Generator,
    exponents: tuple[float, float] = EXPONENTS,
) -> SliceFit:
    """The curves of one model: u and values, the losses, have an array (n,) for each budget, n of 3
    or more. exponents: the range that alpha and beta are averaged over.

    noise: the standard deviation of a loss and its degrees of freedom, where it is known apart from
    these curves (nan: not at all, and nothing is drawn); None: from their own scatter, which needs
    LEAST_DOF points more than three a curve.
    """
    dof = sum(len(places) - 3 for places in u)
    sd, sd_dof = (float("nan"), dof) if noise is None else noise
    nodes, weights = _weighted(u, values, sd, dof, noise is not None, exponents)
    mean = np.array([weights @ nodes.alpha]), np.array([weights @ nodes.beta])
    middle = _Nodes.at(*mean, u, values)
    n_draws = 0 if noise is not None and not np.isfinite(sd) else n_draws
    drawn = rng.choice(len(weights), size=n_draws, p=weights)
    squares = nodes.squares[drawn] if noise is None else np.full(n_draws, sd**2 * sd_dof)
    scales = np.sqrt(squares / rng.chisquare(sd_dof, n_draws)) if n_draws else np.empty(0)
    alpha, beta = nodes.alpha[drawn], nodes.beta[drawn]
    slices = []
    for k, (places, own) in enumerate(zip(u, values, strict=True)):
        best = nodes.coefficients[k][drawn]
        root = np.linalg.cholesky(nodes.inverses[k][drawn])
        noisy = best + scales[:, None] * np.einsum("sij,sj->si", root, rng.normal(size=best.shape))
        centre = float(places.mean())
        draws = np.column_stack([alpha, beta, noisy])
        drawn_u, drawn_losses = minima(centre, draws)
        common_u, common_losses = minima(centre, np.column_stack([alpha, beta, best]))
        slices.append(
            Slice(
                shape=_shape(centre, places, own, middle, k),
                draws=draws,
                u=drawn_u,
                losses=drawn_losses,
                common_u=common_u,
                common_losses=common_losses,
            )
        )
    return SliceFit(slices=tuple(slices), squares=float(nodes.squares.min()))


def _weighted(
    u: Sequence[Array],
    losses: Sequence[Array],
    sd: float,
    dof: int,
    known: bool,
    exponents: tuple[float, float],
) -> tuple[_Nodes, Array]:
    """A grid of exponents, as narrow as the runs are sure, and the nodes' weights."""
    ranges = [exponents, exponents]
    for _ in range(_NARROWED):
        sides = [np.linspace(*ends, _NODES) for ends in ranges]
        alpha, beta = (side.ravel() for side in np.meshgrid(*sides, indexing="ij"))
        nodes = _Nodes.at(alpha, beta, u, losses)
        logs = nodes.log_weights(sd, dof, known)
        logs -= logs.max()
        heavy = logs > -_WEIGHTLESS
        if heavy.sum() >= _ENOUGH:
            break
        ranges = [
            (max(exponents[0], kept.min() - step), min(exponents[1], kept.max() + step))
            for kept, step in (
                (values[heavy], side[1] - side[0])
                for values, side in zip((alpha, beta), sides, strict=True)
            )
        ]
    weights = np.exp(logs)
    return nodes, weights / weights.sum()


def minima(centre: float, draws: Array) -> tuple[Array, Array]:
    """u and losses (S,) of the lowest points of draws (S, 5), as Slice has them."""
    alpha, beta, a, slope, _ = draws.T
    v = lowest(a, slope, alpha, beta)
    inside = np.isfinite(v)
    at = columns(np.where(inside, v, 0.0)[:, None], alpha, beta)[:, 0]
    return centre + v, np.where(inside, np.einsum("si,si->s", at, draws[:, 2:]), np.nan)


def losses(centre: float, draws: Array, u: Array) -> Array:
    """The losses (S, n) of draws (S, 5) at u, (n,) for all or (S, n)."""
    return np.einsum("sni,si->sn", columns(u - centre, *draws[:, :2].T), draws[:, 2:])


def _shape(centre: float, u: Array, losses: Array, at: _Nodes, k: int) -> FittedShape:
    X = columns(u - centre, at.alpha, at.beta)[0]
    (a, slope, level), inverse = at.coefficients[k][0].tolist(), at.inverses[k][0]
    return FittedShape(
        centre=centre,
        a=a,
        slope=slope,
        level=level,
        unscaled=inverse,
        alpha=float(at.alpha[0]),
        beta=float(at.beta[0]),
        residuals=losses - X @ at.coefficients[k][0],
        leverage=np.einsum("ni,ij,nj->n", X, inverse, X),
    )


def interval(u: Array, level: float) -> tuple[float, float]:
    """Interval of minima (S,); those that open downwards may be on either side; nan without."""
    if not len(u):
        return float("nan"), float("nan")
    sides = np.where(np.arange(len(u)) % 2, np.inf, -np.inf)
    known = np.where(np.isnan(u), sides, u)
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return float(low), float(high)


def loss_interval(losses: Array, level: float) -> tuple[float, float]:
    """The interval of lowest losses (S,), of those that have one. nan without any."""
    known = losses[np.isfinite(losses)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
