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

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special

from analysis.fitting.intervals import Array
from analysis.isoflop.scatter import Noise, Scatters, scatters
from analysis.isoflop.shape import FittedShape, columns, lowest

EXPONENTS = (0.01, 1.5)  # published ones are .2 to .7
LEAST_DOF = 3  # below it the curves' own scatter says nothing beside two exponents
_NODES = 16  # a side of the grid of exponents
_ENOUGH = 40  # nodes that carry weight, or the grid is narrowed
_NARROWED = 12  # times at most: each makes the step up to seven times smaller
_WEIGHTLESS = 10.0  # log of a weight beside the largest
N = TypeVar("N", bound=Scatters | None)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One budget's curve. shape: at the mean exponents; best: at the likeliest; noise: of a run's
    loss, nan where it is unknown.

    draws (S, 5): alpha, beta, a, slope, level; u, losses (S,): the minima of the draws, u infinite
    or nan where there is none, losses nan there; common_u, common_losses (S,): of the draws'
    exponents alone, with the curve's own three numbers at their best.
    """

    shape: FittedShape
    best: FittedShape
    noise: Noise
    draws: Array
    u: Array
    losses: Array
    common_u: Array
    common_losses: Array


@dataclass(frozen=True, kw_only=True)
class SliceFit:
    """Slices of one model; squares: the residual sum of squares at the best exponents."""

    slices: tuple[Slice, ...]
    squares: float


@dataclass(frozen=True, kw_only=True)
class Seeds:
    """Runs behind a curve's points (n,): weights, how many; variances of their losses about
    each point, 0 of one run; free: degrees of freedom of these.
    """

    weights: Array
    variances: Array
    free: Array

    @staticmethod
    def alone(weights: Array) -> "Seeds":
        """Seeds of points whose seeds are not known, or not to tell the noise."""
        return Seeds(weights=weights, variances=0 * weights, free=0 * weights)

    @property
    def squares(self) -> float:
        several = self.free > 0
        return float(self.free[several] @ self.variances[several])

    @property
    def dof(self) -> int:
        return int(self.free.sum())

    def at(self, on: np.ndarray) -> "Seeds":
        """Those of some of the points."""
        return Seeds(weights=self.weights[on], variances=self.variances[on], free=self.free[on])


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """Least squares of each curve at exponents (G,): coefficients (G, 3), inverse (G, 3, 3);
    squares (G, B), of the runs.
    """

    alpha: Array
    beta: Array
    coefficients: list[Array]
    inverses: list[Array]
    squares: Array

    @staticmethod
    def at(
        alpha: Array,
        beta: Array,
        u: Sequence[Array],
        losses: Sequence[Array],
        seeds: Sequence[Seeds],
    ) -> "Nodes":
        coefficients, inverses, squares = [], [], []
        for places, values, behind in zip(u, losses, seeds, strict=True):
            root = np.sqrt(behind.weights)
            X = columns(places - places.mean(), alpha, beta) * root[:, None]
            inverse = np.asarray(np.linalg.inv(np.swapaxes(X, 1, 2) @ X), dtype=np.float64)
            about = (values - values.mean()) * root  # or the squares lose eight digits
            found = np.einsum("gij,gnj,n->gi", inverse, X, about, optimize=True)
            rounding = len(values) * (np.finfo(np.float64).eps * np.abs(values).max()) ** 2
            off = ((about - np.einsum("gni,gi->gn", X, found)) ** 2).sum(axis=1)
            squares.append(off + rounding + behind.squares)
            coefficients.append(found + np.array([0.0, 0.0, values.mean()]))
            inverses.append(inverse)
        return Nodes(
            alpha=alpha,
            beta=beta,
            coefficients=coefficients,
            inverses=inverses,
            squares=np.stack(squares, axis=1),
        )


def fit_slices(
    u: Sequence[Array],
    values: Sequence[Array],
    noise: tuple[float, int] | None,
    n_draws: int,
    rng: np.random.Generator,
    seeds: Sequence[Seeds] | None = None,
    exponents: tuple[float, float] = EXPONENTS,
) -> SliceFit:
    """Curves of one model: u and values, the losses, have an array (n,) for each budget, n of 3
    or more.

    noise: the standard deviation of a loss and its degrees of freedom, where it is known apart from
    these curves (nan: not at all, and nothing is drawn); None: from their own scatter and that of
    the seeds, which needs LEAST_DOF runs more than three a curve. seeds: behind the points, whose
    losses are means over them; None: one run each. exponents: the range that alpha and beta are
    averaged over.
    """
    seeds = seeds or [Seeds.alone(np.ones(len(places))) for places in u]
    dof = np.array([len(p) - 3.0 + behind.dof for p, behind in zip(u, seeds, strict=True)])

    def at(alpha: Array, beta: Array) -> tuple[Nodes, Array, Scatters | None]:
        """Nodes, the logarithms of their weights (G, K), and the noises these are of."""
        nodes = Nodes.at(alpha, beta, u, values, seeds)
        if noise is None:
            found = scatters(nodes.squares, dof)
            return nodes, found.logs, found
        squares = nodes.squares.sum(axis=1, keepdims=True)
        return nodes, -squares / (2 * noise[0] ** 2) if noise[0] > 0 else 0 * squares, None

    nodes, weights, noises = _weighted(at, exponents)
    shares = weights.sum(axis=1)
    mean = np.array([shares @ nodes.alpha]), np.array([shares @ nodes.beta])
    middle = Nodes.at(*mean, u, values, seeds)
    likeliest = int(weights.sum(axis=1).argmax())
    if noises is None:
        assert noise is not None
        each = [Noise(*noise)] * len(u)
        n_draws = n_draws if np.isfinite(noise[0]) else 0
    else:
        each = noises.typical(middle.squares[0], weights.sum(axis=0))
    drawn = rng.choice(weights.size, size=n_draws, p=weights.ravel())
    fits, which = np.divmod(drawn, weights.shape[1])
    if noises is None:
        known = each[0].sd * np.sqrt(each[0].dof / rng.chisquare(max(each[0].dof, 1), n_draws))
        scales = np.repeat(known[:, None], len(u), axis=1)
    else:
        scales = noises.draw(fits, which, rng)
    alpha, beta = nodes.alpha[fits], nodes.beta[fits]
    slices = []
    for k, (places, own, behind) in enumerate(zip(u, values, seeds, strict=True)):
        best = nodes.coefficients[k][fits]
        root = np.linalg.cholesky(nodes.inverses[k][fits])
        normal = rng.normal(size=best.shape)
        noisy = best + scales[:, k, None] * np.einsum("sij,sj->si", root, normal)
        centre = float(places.mean())
        draws = np.column_stack([alpha, beta, noisy])
        drawn_u, drawn_losses = minima(centre, draws)
        common_u, common_losses = minima(centre, np.column_stack([alpha, beta, best]))
        slices.append(
            Slice(
                shape=_shape(places, own, behind.weights, middle, 0, k),
                best=_shape(places, own, behind.weights, nodes, likeliest, k),
                noise=each[k],
                draws=draws,
                u=drawn_u,
                losses=drawn_losses,
                common_u=common_u,
                common_losses=common_losses,
            )
        )
    seeds_squares = sum(behind.squares for behind in seeds)
    least = float(nodes.squares.sum(axis=1).min()) - seeds_squares
    return SliceFit(slices=tuple(slices), squares=least)


def averaged(
    u: Sequence[Array], values: Sequence[Array], seeds: Sequence[Seeds]
) -> tuple[Nodes, Array, Scatters]:
    """Curves at all exponents that they allow, by their own scatter and that of seeds; weights
    (G, K), of sum 1, of these and of the noises.
    """
    dof = np.array([len(p) - 3.0 + behind.dof for p, behind in zip(u, seeds, strict=True)])

    def at(alpha: Array, beta: Array) -> tuple[Nodes, Array, Scatters]:
        nodes = Nodes.at(alpha, beta, u, values, seeds)
        found = scatters(nodes.squares, dof)
        return nodes, found.logs, found

    return _weighted(at, EXPONENTS)


def _weighted(
    at: Callable[[Array, Array], tuple[Nodes, Array, N]],
    exponents: tuple[float, float],
) -> tuple[Nodes, Array, N]:
    """A grid of exponents, as narrow as the runs are sure, and weights (G, K), of sum 1."""
    ranges = [exponents, exponents]
    for _ in range(_NARROWED):
        sides = [np.linspace(*ends, _NODES) for ends in ranges]
        alpha, beta = (side.ravel() for side in np.meshgrid(*sides, indexing="ij"))
        nodes, logs, noises = at(alpha, beta)
        of_node = special.logsumexp(logs, axis=1)
        heavy = of_node - of_node.max() > -_WEIGHTLESS
        if heavy.sum() >= _ENOUGH:
            break
        ranges = [
            (max(exponents[0], kept.min() - step), min(exponents[1], kept.max() + step))
            for kept, step in (
                (values[heavy], side[1] - side[0])
                for values, side in zip((alpha, beta), sides, strict=True)
            )
        ]
    weights = np.exp(logs - logs.max())
    return nodes, weights / weights.sum(), noises


def minima(centre: float, draws: Array) -> tuple[Array, Array]:
    """u and losses (S,) of the lowest points of draws (S, 5), as Slice has them."""
    alpha, beta, a, slope, _ = draws.T
    v = lowest(a, slope, alpha, beta)
    inside = np.isfinite(v)
    at = columns(np.where(inside, v, 0.0)[:, None], alpha, beta)[:, 0]
    return centre + v, np.where(inside, np.einsum("si,si->s", at, draws[:, 2:]), np.nan)


def losses(centre: float, draws: Array, u: Array) -> Array:
    """Losses (S, n) of draws (S, 5) at u, (n,) for all or (S, n)."""
    return np.einsum("sni,si->sn", columns(u - centre, *draws[:, :2].T), draws[:, 2:])


def _shape(u: Array, losses: Array, weights: Array, at: Nodes, node: int, k: int) -> FittedShape:
    centre = float(u.mean())
    X = columns(u - centre, at.alpha[[node]], at.beta[[node]])[0]
    coefficients, inverse = at.coefficients[k][node], at.inverses[k][node]
    a, slope, level = coefficients.tolist()
    return FittedShape(
        centre=centre,
        a=a,
        slope=slope,
        level=level,
        unscaled=inverse,
        alpha=float(at.alpha[node]),
        beta=float(at.beta[node]),
        residuals=losses - X @ coefficients,
        weights=weights,
        leverage=weights * np.einsum("ni,ij,nj->n", X, inverse, X),
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
    """Interval of lowest losses (S,), of those that have one. nan without any."""
    known = losses[np.isfinite(losses)]
    if not len(known):
        return float("nan"), float("nan")
    low, high = np.quantile(known, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
