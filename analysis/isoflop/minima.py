"""Minima of a model's curves with their errors, by each of the methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from analysis.fitting.clusters import drawn_counts
from analysis.fitting.intervals import Array, t_quantile
from analysis.isoflop import slices
from analysis.isoflop.akima import akima_intervals, akima_minimum
from analysis.isoflop.methods import Method, Single
from analysis.isoflop.misfit import BesideSeeds, beside_seeds
from analysis.isoflop.outliers import Outlier, find_outliers
from analysis.isoflop.resample import (
    nearest,
    redrawn_minima,
    resampled_minima,
    resampled_slices,
)
from analysis.isoflop.scatter import SHARED, Noise
from analysis.isoflop.shape import FittedShape, fit_parabola
from analysis.isoflop.shared import SizeError, error_of_sizes
from analysis.isoflop.slices import LEAST_DOF, Seeds, Slice, SliceFit, fit_slices

_LOCAL = 5  # sizes about the best that a parabola describes
_OWN_DOF = 3  # fewer leave a scatter that is mostly luck
_KNOWN = 1_000_000  # degrees of freedom of a noise that was given: the normal distribution


@dataclass(frozen=True, kw_only=True)
class Points:
    """Points that one curve is fitted to, in order of size, and the runs behind them."""

    model: str
    budget: float
    u: Array
    losses: Array
    seeds: Seeds
    others: Mapping[str, Array]  # ln of the other sizes, where the table has them
    labels: np.ndarray | None  # of the clusters

    def at(self, on: np.ndarray) -> "Points":
        """Some of them."""
        return replace(
            self,
            u=self.u[on],
            losses=self.losses[on],
            seeds=self.seeds.at(on),
            others={name: values[on] for name, values in self.others.items()},
            labels=None if self.labels is None else self.labels[on],
        )


@dataclass(frozen=True, kw_only=True)
class Minimum:
    """A curve's minimum, u and losses on the log and plain scale.

    draws: "noise", "case" or "cluster" -> minima (S,) of u and of losses, nan where a draw has
    none; common: such minima that differ by what all curves of the model share, if anything;
    slice_draws: of a slice's numbers, as Slice.draws.
    """

    points: Points
    shape: FittedShape
    u_opt: float
    loss_opt: float
    noise: Noise
    u_interval: tuple[float, float]
    loss_interval: tuple[float, float]
    draws: Mapping[str, tuple[Array, Array]]
    at_end: bool = False
    common: tuple[Array, Array] | None = None
    slice_draws: Array = field(default_factory=lambda: np.empty((0, 5)))

    @property
    def inside(self) -> bool:
        """Whether it is within the sizes."""
        return bool(self.points.u[0] <= self.u_opt <= self.points.u[-1])


@dataclass(frozen=True, kw_only=True)
class Minima:
    """A model's minima. likeliest: the curves that fit best, of which the scatter is; the slices of
    squares (their sum) compare with parabolas; seeds: the scatter beside that of seeds, if any;
    sizes: an error that the runs of a size share, if they do; outliers: of each curve.
    """

    found: tuple[Minimum, ...]
    likeliest: tuple[FittedShape, ...]
    slice_squares: float | None
    seeds: BesideSeeds | None
    sizes: SizeError | None
    outliers: tuple[tuple[Outlier, ...], ...]


def find_minima(
    points: Sequence[Points],
    method: Method,
    noise: float | None,
    n_draws: int,
    rng: np.random.Generator,
    counts: Sequence[Array | None],
    exclude: bool = True,
) -> Minima:
    """One model's. noise: of a loss in nats, if it is known. counts: how often each run of a curve
    was drawn (n_draws, n) with its cluster; None: by itself, as it comes. exclude: outliers, which
    are looked for about slices alone.
    """
    points, kept, beside, outliers = _judged(points, method, exclude)
    counts = [None if c is None else c[:, on] for c, on in zip(counts, kept, strict=True)]
    parabolas = tuple(fit_parabola(p.u, p.losses, p.seeds.weights) for p in points)
    squares = None
    if method == "slice":
        by_slices = _by_slices(points, parabolas, noise, n_draws, rng, counts)
        found = tuple(minimum for minimum, _ in by_slices)
        likeliest = tuple(best for _, best in by_slices)
        sizes = error_of_sizes(likeliest, [m.noise for m in found], [p.u for p in points])
        return Minima(
            found=found if sizes is None else _moved_together(found, sizes, n_draws, rng),
            likeliest=likeliest,
            slice_squares=None,
            seeds=beside,
            sizes=sizes,
            outliers=outliers,
        )
    if method == "parabola":
        squares = _slices(points).squares
    scatter = _scaled(points, method)
    noises = _estimate_scatter(scatter, [p.seeds for p in points], noise)
    found = tuple(
        _of_one(p, parabola, method, own, n_draws, rng, drawn)
        for p, parabola, own, drawn in zip(points, parabolas, noises, counts, strict=True)
    )
    return Minima(
        found=found,
        likeliest=parabolas,
        slice_squares=squares,
        seeds=beside,
        sizes=None,
        outliers=outliers,
    )


def _judged(
    points: Sequence[Points], method: Method, exclude: bool
) -> tuple[list[Points], list[np.ndarray], BesideSeeds | None, tuple[tuple[Outlier, ...], ...]]:
    """Points that curves are of, weighing what their seeds say; which of all these are; the
    scatter about the curves beside that of seeds; and the outliers.
    """
    if method != "slice":
        beside = _beside_seeds(points, method)
        lack = beside is not None and beside.is_lack
        every = [np.ones(len(p.u), dtype=bool) for p in points]
        return [_alike(p) if lack else p for p in points], every, beside, ((),) * len(points)
    kept, outliers = _outliers(points, exclude)
    rest = [p.at(on) for p, on in zip(points, kept, strict=True)]
    beside = _beside_seeds(rest, method)
    if beside is not None and beside.is_lack:
        points = [_alike(p) for p in points]
        if len({weight for p in rest for weight in p.seeds.weights.tolist()}) > 1:
            kept, outliers = _outliers(points, exclude)
        rest = [p.at(on) for p, on in zip(points, kept, strict=True)]
    return rest, kept, beside, outliers


def _alike(points: Points) -> Points:
    """More seeds do not bring a point nearer to a curve that misses it."""
    return replace(points, seeds=Seeds.alone(np.ones(len(points.u))))


def _outliers(
    points: Sequence[Points], exclude: bool
) -> tuple[list[np.ndarray], tuple[tuple[Outlier, ...], ...]]:
    """Which points are kept (n,), of each curve, and the outliers."""
    found = find_outliers(
        [p.u for p in points], [p.losses for p in points], [p.seeds.weights for p in points]
    )
    kept = [np.ones(len(p.u), dtype=bool) for p in points]
    for on, own in zip(kept, found, strict=True):
        on[[one.point for one in own if exclude]] = False
    return kept, tuple(map(tuple, found))


def _beside_seeds(points: Sequence[Points], method: Method) -> BesideSeeds | None:
    if not any(p.seeds.dof for p in points):
        return None
    if method == "slice":
        scaled = [one.best.scaled for one in _slices(points).slices]
        return beside_seeds(scaled, [p.seeds for p in points], SHARED)
    return beside_seeds(_scaled(points, method), [p.seeds for p in points], 0)


def _slices(points: Sequence[Points]) -> SliceFit:
    """Without intervals, and by the scatter about the curves alone."""
    bare = [Seeds.alone(p.seeds.weights) for p in points]
    every = [p.u for p in points], [p.losses for p in points]
    return fit_slices(*every, None, 0, np.random.default_rng(0), bare)


def _scaled(points: Sequence[Points], method: Single) -> list[Array]:
    """Residuals of parabolas, in the noise of one run."""
    scaled = []
    for p in points:  # interpolation follows what a parabola misses, except near the best
        on = nearest(p.u, p.losses, _LOCAL if method == "akima" else None)
        scaled.append(fit_parabola(p.u[on], p.losses[on], p.seeds.weights[on]).scaled)
    return scaled


def _estimate_scatter(
    residuals: Sequence[Array], seeds: Sequence[Seeds], given: float | None
) -> list[Noise]:
    """Scatter of each curve of a model: its own, or of few runs all the model's."""
    if given is not None:
        return [Noise(given, _KNOWN)] * len(residuals)
    squares = [float(r @ r) + s.squares for r, s in zip(residuals, seeds, strict=True)]
    free = [len(r) - 3 + s.dof for r, s in zip(residuals, seeds, strict=True)]
    pooled = _noise(sum(squares), sum(free))
    return [
        _noise(own, f) if f >= _OWN_DOF else pooled for own, f in zip(squares, free, strict=True)
    ]


def _noise(squares: float, dof: int) -> Noise:
    return Noise(float(np.sqrt(squares / dof)) if dof > 0 else float("nan"), max(dof, 0))


def _of_one(
    points: Points,
    parabola: FittedShape,
    method: Single,
    noise: Noise,
    n_draws: int,
    rng: np.random.Generator,
    counts: Array | None,
) -> Minimum:
    u, losses = points.u, points.losses
    if method == "akima":
        place, value, end = akima_minimum(u, losses[None])
        u_opt, loss_opt, at_end = float(place[0]), float(value[0]), bool(end[0])
    else:
        u_opt, loss_opt, at_end = parabola.u_opt, parabola.loss_opt, False
    weights = points.seeds.weights
    how, counts = _drawn(counts, weights, n_draws, rng)
    draws = {how: resampled_minima(u, losses, method, counts)}
    sd, t = noise.sd, t_quantile(noise.dof, 0.95)
    if np.isfinite(sd):
        draws["noise"] = redrawn_minima(u, losses, method, weights, sd, n_draws, rng)
    if method == "akima":
        own = np.random.default_rng(int(rng.integers(2**32)))
        of_means = sd / np.sqrt(weights)
        u_interval, loss_interval = akima_intervals(u, losses, of_means, t, n_draws, own)
    else:
        u_interval = parabola.u_interval(sd, t)
        loss_interval = parabola.loss_interval(sd, t)
    return Minimum(
        points=points,
        shape=parabola,
        u_opt=u_opt,
        loss_opt=loss_opt,
        at_end=at_end,
        noise=noise,
        u_interval=u_interval,
        loss_interval=loss_interval,
        draws=draws,
    )


def _by_slices(
    points: Sequence[Points],
    parabolas: Sequence[FittedShape],
    given: float | None,
    n_draws: int,
    rng: np.random.Generator,
    counts: Sequence[Array | None],
) -> list[tuple[Minimum, FittedShape]]:
    """Minima, and the curves at the likeliest exponents."""
    known = None if given is None else Noise(given, _KNOWN)
    seeds = [p.seeds for p in points]
    dof = sum(len(p.u) - 3 + p.seeds.dof for p in points)
    if known is None and dof < LEAST_DOF:
        (known, *_) = _estimate_scatter([parabola.scaled for parabola in parabolas], seeds, None)
    every = [p.u for p in points], [p.losses for p in points]
    fit = fit_slices(*every, known, n_draws, rng, seeds)
    found = []
    for p, one, given_counts in zip(points, fit.slices, counts, strict=True):
        how, drawn = _drawn(given_counts, p.seeds.weights, n_draws, rng)
        again = resampled_slices(p.u, p.losses, drawn, one.shape.alpha, one.shape.beta)
        found.append((_of_slice(p, one, {how: again}), one.best))
    return found


def _moved_together(
    minima: Sequence[Minimum], sizes: SizeError, n_draws: int, rng: np.random.Generator
) -> tuple[Minimum, ...]:
    """With the error of sizes in what all minima share."""
    found = []
    shifts = zip(*(shift.T for shift in sizes.draws(n_draws, rng)), strict=True)
    for minimum, (by_u, by_loss) in zip(minima, shifts, strict=True):
        assert minimum.common is not None
        places, values = minimum.common
        n = len(places)  # none where the noise is unknown
        found.append(replace(minimum, common=(places + by_u[:n], values + by_loss[:n])))
    return tuple(found)


def _drawn(
    counts: Array | None, weights: Array, n_draws: int, rng: np.random.Generator
) -> tuple[str, Array]:
    """Unit that points are drawn by, and how much each draw weighs."""
    if counts is not None:
        return "cluster", counts * weights
    return "case", drawn_counts(len(weights), n_draws, rng) * weights


def _of_slice(points: Points, one: Slice, draws: Mapping[str, tuple[Array, Array]]) -> Minimum:
    places = np.where(np.isfinite(one.u), one.u, np.nan)
    common = np.where(np.isfinite(one.common_u), one.common_u, np.nan)
    return Minimum(
        points=points,
        shape=one.shape,
        u_opt=one.shape.u_opt,
        loss_opt=one.shape.loss_opt,
        noise=one.noise,
        u_interval=slices.interval(one.u, 0.95),
        loss_interval=slices.loss_interval(one.losses, 0.95),
        draws={**draws, **({"noise": (places, one.losses)} if len(places) else {})},
        common=(common, one.common_losses),
        slice_draws=one.draws,
    )
