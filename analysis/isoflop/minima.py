"""The minima of a model's curves with their errors, by each of the methods."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from analysis.fitting.clusters import drawn_counts
from analysis.fitting.intervals import Array, t_quantile
from analysis.isoflop import slices
from analysis.isoflop.akima import akima_intervals, akima_minimum
from analysis.isoflop.methods import Method, Single
from analysis.isoflop.resample import (
    nearest,
    redrawn_minima,
    resampled_minima,
    resampled_slices,
)
from analysis.isoflop.shape import FittedShape, fit_parabola
from analysis.isoflop.slices import LEAST_DOF, Slice, fit_slices

_LOCAL = 5  # sizes about the best that a parabola describes
_OWN_DOF = 3  # fewer leave a scatter that is mostly luck
_KNOWN = 1_000_000  # degrees of freedom of a noise that was given: the normal distribution


class Noise(NamedTuple):
    """Standard deviation of a loss about its curve in nats, and its degrees of freedom."""

    sd: float
    dof: int


@dataclass(frozen=True, kw_only=True)
class Points:
    """The points that one curve is fitted to, in order of size."""

    model: str
    budget: float
    u: Array
    losses: Array
    others: Mapping[str, Array]  # ln of the other sizes, where the table has them
    labels: np.ndarray | None  # of the clusters


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


@dataclass(frozen=True, kw_only=True)
class Minima:
    """A model's minima. shapes: parabolas; the slices of squares (their sum) compare with them."""

    found: tuple[Minimum, ...]
    parabolas: tuple[FittedShape, ...]
    slice_squares: float | None


def minima_of(
    points: Sequence[Points],
    method: Method,
    noise: float | None,
    n_draws: int,
    rng: np.random.Generator,
    counts: Sequence[Array | None],
) -> Minima:
    """One model's. noise: of a loss in nats, if it is known. counts: how often each run of a curve
    was drawn (n_draws, n) with its cluster; None: by itself, as it comes.
    """
    parabolas = tuple(fit_parabola(p.u, p.losses) for p in points)
    if method == "slice":
        found = _by_slices(points, parabolas, noise, n_draws, rng, counts)
        return Minima(found=found, parabolas=parabolas, slice_squares=None)
    scatter = [parabola.residuals for parabola in parabolas]
    squares = None
    if method == "akima":  # it follows what a parabola misses, except near the best
        near = [nearest(p.u, p.losses, _LOCAL) for p in points]
        scatter = [
            fit_parabola(p.u[on], p.losses[on]).residuals
            for p, on in zip(points, near, strict=True)
        ]
    else:
        every = [p.u for p in points], [p.losses for p in points]
        squares = fit_slices(*every, None, 0, np.random.default_rng(0)).squares
    found = tuple(
        _of_one(p, parabola, method, own, n_draws, rng, drawn)
        for p, parabola, own, drawn in zip(
            points, parabolas, _scatter_of(scatter, noise), counts, strict=True
        )
    )
    return Minima(found=found, parabolas=parabolas, slice_squares=squares)


def _scatter_of(residuals: Sequence[Array], given: float | None) -> list[Noise]:
    """The scatter of each curve of a model: its own, or of few points all the model's."""
    if given is not None:
        return [Noise(given, _KNOWN)] * len(residuals)
    pooled = _pooled(residuals)
    free = [len(r) - 3 for r in residuals]
    return [
        Noise(float(np.sqrt(float(r @ r) / f)), f) if f >= _OWN_DOF else pooled
        for r, f in zip(residuals, free, strict=True)
    ]


def _pooled(residuals: Sequence[Array], n_shared: int = 0) -> Noise:
    """n_shared: parameters that are not one curve's own, beside three of each."""
    total = sum(len(r) - 3 for r in residuals) - n_shared
    squares = sum(float(r @ r) for r in residuals)
    return Noise(float(np.sqrt(squares / total)) if total > 0 else float("nan"), max(total, 0))


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
    how, counts = _drawn(counts, len(u), n_draws, rng)
    draws = {how: resampled_minima(u, losses, method, counts)}
    if np.isfinite(noise.sd):
        draws["noise"] = redrawn_minima(u, losses, method, noise.sd, n_draws, rng)
    sd, t = noise.sd, t_quantile(noise.dof, 0.95)
    if method == "akima":
        own = np.random.default_rng(int(rng.integers(2**32)))
        u_interval, loss_interval = akima_intervals(u, losses, sd, t, n_draws, own)
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
) -> tuple[Minimum, ...]:
    known = None if given is None else Noise(given, _KNOWN)
    if known is None and sum(len(p.u) - 3 for p in points) < LEAST_DOF:
        known = _pooled([parabola.residuals for parabola in parabolas])
    fit = fit_slices([p.u for p in points], [p.losses for p in points], known, n_draws, rng)
    own = _pooled([one.shape.residuals for one in fit.slices], n_shared=2)
    noise = known if known is not None else own
    found = []
    for p, one, given_counts in zip(points, fit.slices, counts, strict=True):
        how, drawn = _drawn(given_counts, len(p.u), n_draws, rng)
        again = resampled_slices(p.u, p.losses, drawn, one.shape.alpha, one.shape.beta)
        found.append(_of_slice(p, one, noise, {how: again}))
    return tuple(found)


def _drawn(
    counts: Array | None, n: int, n_draws: int, rng: np.random.Generator
) -> tuple[str, Array]:
    """The unit that runs are drawn by, and how often each was."""
    if counts is not None:
        return "cluster", counts
    return "case", drawn_counts(n, n_draws, rng)


def _of_slice(
    points: Points, one: Slice, noise: Noise, draws: Mapping[str, tuple[Array, Array]]
) -> Minimum:
    places = np.where(np.isfinite(one.u), one.u, np.nan)
    common = np.where(np.isfinite(one.common_u), one.common_u, np.nan)
    return Minimum(
        points=points,
        shape=one.shape,
        u_opt=one.shape.u_opt,
        loss_opt=one.shape.loss_opt,
        noise=noise,
        u_interval=slices.interval(one.u, 0.95),
        loss_interval=slices.loss_interval(one.losses, 0.95),
        draws={**draws, **({"noise": (places, one.losses)} if len(places) else {})},
        common=(common, one.common_losses),
        slice_draws=one.draws,
    )
