"""Error of a form beyond its runs, by what it says without the edge of them.

A form that is not the runs' own fits them and is off beyond them, and its own interval is of noise
alone. So each form is fitted again without an edge of the runs: the fifth of the most compute, the
two fifths, the largest sizes, the most tokens (or experts, or another column). What these fits say
differs from what the form says by noise, which the same draws of a bootstrap have on both sides,
and by the form. What is more than noise makes in one of ten is the form's own error, and is in the
interval. All is on the scale y on which noise is additive: ln L of laws in size, tokens and
experts, L of forms in other columns, whose losses may be negative.

It grows with the distance by itself, as fits apart at the edge part further beyond it. An exponent
that drifts makes an error that grows as the square of the distance d, and the fits without an edge
of width g show 2 d g + g^2 of it: beyond d = 2 g they show too little, and are taken d / 2 g times.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Self

import numpy as np

from analysis.fitting.average import akaike_weights
from analysis.fitting.checks import check_level
from analysis.fitting.hold_out import largest
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.least_squares import Minima, Model
from analysis.fitting.results import DrawsFit

PAIRED = 40  # draws of the bootstrap that are fitted without each edge too
_STARTS = 3  # of the box, beside the form's own estimate
_STEPS = 100  # of the descents from them
_BY_CHANCE = 2.7  # times its variance: a square of noise that is larger in one of ten
_WORSE = 0.05  # of the weight by the edges: below it the likeliest form extrapolates worse
_NEAR = 1.1  # values so near each other are one place of an edge
_FAR = 10.01  # times the largest value of the runs: beyond it a prediction is warned of
_AT_ONCE = 100  # draws whose derivatives are held at once


@dataclass(frozen=True, kw_only=True, eq=False)
class Edge:
    """Runs that are withheld, (n,). width: ln of how far they reach beyond the others, in values
    that the edge is of; places: how many different ones there are; top: ln of the largest.
    """

    name: str
    out: np.ndarray = field(repr=False)
    width: float
    places: int
    top: float

    @property
    def n_held(self) -> int:
        return int(self.out.sum())


def find_edges(values: Mapping[str, Array], shares: Mapping[str, Sequence[float]]) -> list[Edge]:
    """Edges of runs by each of these values (n,), shares of them; those alike once."""
    found: list[Edge] = []
    for name, of in values.items():
        for share in shares[name]:
            out = largest(of, share)
            if not out.any() or any((out == one.out).all() for one in found):
                continue
            with np.errstate(divide="ignore"):  # a share of 0
                width = float(np.log(of.max() / of[~out].max()))
            edge = Edge(
                name=name,
                out=out,
                width=width,
                places=_count(of[out]),
                top=float(np.log(of.max())),
            )
            found.append(edge)
    return found


def _count(values: Array) -> int:
    ordered = np.sort(values)
    return 1 + int((ordered[1:] > _NEAR * ordered[:-1]).sum())


@dataclass(frozen=True, kw_only=True, repr=False)
class EdgedFit(DrawsFit):
    """A fit that knows its form's own error, where it was fitted without edges too.

    thetas: the estimate, then the draws, as they were fitted; edges, without: runs that it was
    fitted without, and thetas then, (K, 1 + m, p), which make the form's own error, a part of the
    intervals of predictions; none of a fit that stands alone; missed: root mean square of what it
    then was off an edge's runs by, of y, (K,). misfit: whether it misses its runs in a pattern.
    """

    thetas: Array = field(repr=False, compare=False)
    edges: tuple[Edge, ...] = field(repr=False, compare=False)
    without: Array = field(repr=False, compare=False)
    missed: Array = field(repr=False, compare=False)
    misfit: bool = field(repr=False, compare=False, default=False)

    @property
    def alone(self) -> Self:
        """Same without what edges say: its intervals hold if the form does."""
        return replace(self, edges=(), without=self.without[:0], missed=self.missed[:0])

    def missed_at(self, edge: Edge) -> float:
        return float(self.missed[self.edges.index(edge)])

    def error_of_form(self, of: Callable[[Array], Array], times: Array | float = 1.0) -> Array:
        """Standard deviation of the form's error of y; of: thetas (S, p) -> y (S, ...); times: what
        the fits without an edge are apart by counts so many times.
        """
        if not len(self.without):
            return np.zeros(())
        own = of(self.thetas[: self.without.shape[1]])
        without = np.stack([of(thetas) for thetas in self.without])
        return error_of_form(own, without, times, self.misfit)

    def _over_draws(self, of: Callable[[Array], Array], level: float) -> Prediction:
        """of: thetas (S, p) to values (S, K). Draws where a value is nan are left out."""
        value = of(self.thetas[:1])[0]
        check_level(level)
        if len(self.thetas) == 1:
            nothing = np.full(np.shape(value), np.nan)
            return Prediction(value, nothing, nothing, level)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")  # nan then, as it should be
            drawn = np.concatenate([of(part) for part in self._parts(self.thetas)[1:]])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(value, low, high, level)

    def _parts(self, thetas: Array) -> list[Array]:
        """Estimate by itself, so that its digits do not depend on the draws; then the draws."""
        draws = range(1, len(thetas), _AT_ONCE)
        return [thetas[:1], *(thetas[i : i + _AT_ONCE] for i in draws)]


def fit_without(
    kept: Sequence[np.ndarray],
    descend: Callable[..., Minima],
    starts: Array,
    theta: Array,
    draw: Callable[[Array, Array], Array],
    model: Model,
    y: Array,
) -> tuple[Array, Array]:
    """theta of these runs (n,) alone, then of the first PAIRED draws likewise: (K, 1 + m, p); and
    the root mean square of what it is off the other runs by, of y (n,) and its model: (K,).

    descend: least_squares.minimise of the fit's model and target; starts: of its box (S, p); draw:
    theta without an edge, and weights (n,) -> thetas of the draws without it, (m, p).
    """
    found, missed = [], []
    order = np.linspace(0, len(starts) - 1, min(_STARTS, len(starts))).astype(int)
    begin = np.vstack([theta[None], starts[order]])
    for one in kept:
        weights = one.astype(np.float64)
        own = descend(begin, weights=weights, max_steps=_STEPS)
        best = own.theta[own.best]
        found.append(np.vstack([best[None], draw(best, weights)]))
        missed.append(np.sqrt(np.mean((model(best[None])[0][0] - y)[~one] ** 2)))
    return np.array(found) if found else np.empty((0, 1, len(theta))), np.array(missed)


def common_edges(fits: Sequence[EdgedFit]) -> list[Edge]:
    """Those that all of them were fitted without."""
    return [edge for edge in fits[0].edges if all(edge in fit.edges for fit in fits)]


def times_beyond(edges: Sequence[Edge], log_of: Callable[[str], Array]) -> Array:
    """d / 2 g of each edge (K, *shape), 1 at least; log_of: an edge's name -> ln of its values at
    some places.
    """
    return np.array(
        [np.maximum((log_of(one.name) - one.top) / (2 * one.width), 1.0) for one in edges]
    )


def times_beyond_warned(edges: Sequence[Edge], log_of: Callable[[str], Array]) -> Array:
    """Same, with a Python warning where places are far beyond the runs."""
    for one in edges:
        far = float(np.exp(np.max(log_of(one.name) - one.top)))
        if far > _FAR:
            warnings.warn(
                f"asked for {far:.3g} times the largest {one.name} of the runs, "
                f"{np.exp(one.top):.3g}: no run says how the form goes on there",
                stacklevel=4,
            )
            break
    return times_beyond(edges, log_of)


def error_of_form(
    own: Array, without: Array, times: Array | float = 1.0, misfit: bool = False
) -> Array:
    """Standard deviation of a form's error of y, (*shape). misfit: whether the form is known to
    miss its runs: then their scatter is the form's too, and no part of a difference is noise.

    own (1 + m, *shape): y by the estimate and its first draws; without (K, 1 + m, *shape): the
    same of the fits without each edge; times (K, *shape): what their difference is taken by.
    """
    if not len(without):
        return np.zeros(own.shape[1:])
    with np.errstate(invalid="ignore"):
        shift = without - own
        drawn = shift.shape[1] > 2 and not misfit
        known = np.ma.masked_invalid(shift[:, 1:])
        noise = _BY_CHANCE * known.var(axis=1).filled(0.0) if drawn else np.zeros_like(shift[:, 0])
        excess = np.asarray(times) ** 2 * (shift[:, 0] ** 2 - noise)
    excess = np.where(np.isfinite(excess), excess, 0.0)
    return np.asarray(np.sqrt(np.maximum(excess.mean(axis=0), 0.0)))


def widened(found: Prediction, sd: Array, level: float, n_edges: int) -> Prediction:
    """Interval of y that has an independent error too; sd: its standard deviation, as so many edges
    tell it: by Student's t.
    """
    more = (t_quantile(max(n_edges - 1, 1), level) if n_edges else 0.0) * np.asarray(sd)
    return found.wider(more)


def with_usual_error(
    found: Prediction,
    alone: Sequence[Prediction],
    whole: Sequence[Prediction],
    weights: Sequence[float],
) -> Prediction:
    """An average of forms' y with the error that is usual among them: the median by their weights.

    alone, whole: each form's prediction without its own error, and with it. A form of little weight
    that the runs hardly identify has a huge one, and would be the error of all.
    """
    ends = {}
    with np.errstate(invalid="ignore"):
        for side in ("lower", "upper"):
            parts = [
                (getattr(w, side) - w.value) ** 2 - (getattr(a, side) - a.value) ** 2
                for a, w in zip(alone, whole, strict=True)
            ]
            more = _weighted_median(np.nan_to_num(np.array(parts), posinf=0.0), weights)
            own = getattr(found, side) - found.value
            reach = np.sqrt(own**2 + np.maximum(more, 0.0))
            kept = (more <= 0) | ~np.isfinite(own)
            away = found.value + (reach if side == "upper" else -reach)
            ends[side] = np.where(kept, getattr(found, side), away)[()]
    return found._replace(**ends)


def _weighted_median(values: Array, weights: Sequence[float]) -> Array:
    """Along the first axis, the least value that half of the weight is at or below."""
    order = np.argsort(values, axis=0)
    share = np.cumsum(np.asarray(weights)[order], axis=0) / np.sum(weights)
    first = (share >= 0.5 - 1e-12).argmax(axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    return np.asarray(np.take_along_axis(ordered, first[None], axis=0)[0])


def edge_weights(fits: Mapping[str, EdgedFit]) -> dict[str, float]:
    """Form -> share of the evidence of the edges that all were fitted without; none without such.

    The likelihood of an edge's errors, normal and of unknown size, that are alike at one place: a
    form's mean square to the power of minus half the number of places, averaged over the edges.
    """
    edges = common_edges(list(fits.values()))
    if not edges:
        return {}
    with np.errstate(divide="ignore"):
        logs = [
            float(np.mean([2 * edge.places * np.log(fit.missed_at(edge)) for edge in edges]))
            for fit in fits.values()
        ]
    shares = akaike_weights([v if np.isfinite(v) else np.inf for v in logs])
    return dict(zip(fits, shares.tolist(), strict=True))


def pooled(weights: Mapping[str, float], by_edges: Mapping[str, float]) -> dict[str, float]:
    """Weights of forms by the runs they are fitted to and, where the likeliest of these says
    significantly worse than another what it was not fitted to, half of them by that.
    """
    likeliest = max(weights, key=lambda form: weights[form])
    if by_edges.get(likeliest, 1.0) > _WORSE * max(by_edges.values(), default=0.0):
        return dict(weights)
    return {form: (w + by_edges.get(form, 0.0)) / 2 for form, w in weights.items()}
