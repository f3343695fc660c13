"""Error of a law's form beyond its runs, by what it says without the edge of them.

A form that is not the runs' own fits them and is off beyond them, and its own interval is of noise
alone. So each law is fitted again without an edge of the runs: the fifth of the most compute, the
two fifths, the largest sizes, the most tokens (or experts). What these fits say differs from what
the law says by noise, which the same draws of a bootstrap have on both sides, and by the form. What
is more than noise makes in one of ten is the form's own error, and is in the interval.

It grows with the distance by itself, as fits apart at the edge part further beyond it. An exponent
that drifts makes an error that grows as the square of the distance d, and the fits without an edge
of width g show 2 d g + g^2 of it: beyond d = 2 g they show too little, and are taken d / 2 g times.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from analysis.fitting.hold_out import largest
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.least_squares import Model, minimise
from analysis.laws.average import akaike_weights

if TYPE_CHECKING:
    from analysis.laws.law import Start

PAIRED = 40  # draws of the bootstrap that are fitted without each edge too
_STARTS = 3  # of the box, beside the law's own estimate
_STEPS = 100  # of the descents from them
_FEW_STEPS = 8  # of a draw, from the estimate without the edge: it is not far
_BY_CHANCE = 2.7  # times its variance: a square of noise that is larger in one of ten
_WORSE = 0.05  # of the weight by the edges: below it the likeliest form extrapolates worse
_NEAR = 1.1  # values so near each other are one place of an edge


@dataclass(frozen=True, kw_only=True, eq=False)
class Edge:
    """Runs that are withheld, (n,). width: ln of how far they reach beyond the others, in values
    that the edge is of; places: how many different ones there are; top: ln of the largest.
    """

    name: str
    out: np.ndarray
    width: float
    places: int
    top: float


def find_edges(values: Mapping[str, Array], shares: Mapping[str, Sequence[float]]) -> list[Edge]:
    """Edges of runs by each of these values (n,), shares of them; those alike once."""
    found: list[Edge] = []
    for name, of in values.items():
        for share in shares[name]:
            out = largest(of, share)
            if not out.any() or any((out == one.out).all() for one in found):
                continue
            edge = Edge(
                name=name,
                out=out,
                width=float(np.log(of.max() / of[~out].max())),
                places=_count(of[out]),
                top=float(np.log(of.max())),
            )
            found.append(edge)
    return found


def _count(values: Array) -> int:
    ordered = np.sort(values)
    return 1 + int((ordered[1:] > _NEAR * ordered[:-1]).sum())


def fit_without(
    edges: Sequence[Edge],
    model: Model,
    target: Array,
    box: "Start",
    theta: Array,
    counts: Array,
    delta: float,
) -> Array:
    """theta without each edge, then of the first PAIRED draws likewise: (K, 1 + m, p).

    counts (S, n): how often each draw of the bootstrap has each run.
    """
    found = []
    drawn = counts[:PAIRED]
    for edge in edges:
        kept = (~edge.out).astype(np.float64)
        order = np.linspace(0, len(box.starts) - 1, min(_STARTS, len(box.starts))).astype(int)
        starts = np.vstack([theta[None], box.starts[order]])
        descend = partial(minimise, model, target, lower=box.lower, upper=box.upper, delta=delta)
        own = descend(starts, weights=kept, max_steps=_STEPS)
        best = own.theta[own.best]
        begin = np.repeat(best[None], len(drawn), axis=0)
        draws = descend(begin, weights=drawn * kept, max_steps=_FEW_STEPS)
        found.append(np.vstack([best[None], draws.theta]))
    return np.array(found).reshape(len(edges), 1 + len(drawn), len(theta))


def error_of_form(
    own: Array, without: Array, times: Array | float = 1.0, misfit: bool = False
) -> Array:
    """Standard deviation of a form's error of ln y, (*shape). misfit: whether the form is known to
    miss its runs: then their scatter is the form's too, and no part of a difference is noise.

    own (1 + m, *shape): ln y by the estimate and its first draws; without (K, 1 + m, *shape): the
    same of the fits without each edge; times (K, *shape): what their difference is taken by.
    """
    if not len(without):
        return np.zeros(own.shape[1:])
    with np.errstate(invalid="ignore"):
        shift = without - own
        drawn = shift.shape[1] > 2 and not misfit
        noise = _BY_CHANCE * shift[:, 1:].var(axis=1) if drawn else np.zeros_like(shift[:, 0])
        excess = np.asarray(times) ** 2 * (shift[:, 0] ** 2 - noise)
    excess = np.where(np.isfinite(excess), excess, 0.0)
    return np.asarray(np.sqrt(np.maximum(excess.mean(axis=0), 0.0)))


def widened(found: Prediction, sd: Array, level: float, n_edges: int) -> Prediction:
    """Interval that has an independent error of ln y too; sd: its standard deviation, as so many
    edges tell it: by Student's t.
    """
    more = (t_quantile(max(n_edges - 1, 1), level) if n_edges else 0.0) * np.asarray(sd)
    with np.errstate(divide="ignore", invalid="ignore"):
        low, value, high = (np.log(v) for v in (found.lower, found.value, found.upper))
        lower = np.where(more > 0, value - np.hypot(value - low, more), low)
        upper = np.where(more > 0, value + np.hypot(high - value, more), high)
        return Prediction(found.value, np.exp(lower)[()], np.exp(upper)[()], level)


def with_usual_error(
    found: Prediction,
    alone: Sequence[Prediction],
    whole: Sequence[Prediction],
    weights: Sequence[float],
) -> Prediction:
    """An average of forms with the error that is usual among them: the median by their weights.

    alone, whole: each form's prediction without its own error, and with it. A form of little weight
    that the runs hardly identify has a huge one, and would be the error of all.
    """
    ends = {}
    with np.errstate(divide="ignore", invalid="ignore"):
        for side in ("lower", "upper"):
            parts = [
                np.log(getattr(w, side) / w.value) ** 2 - np.log(getattr(a, side) / a.value) ** 2
                for a, w in zip(alone, whole, strict=True)
            ]
            more = _weighted_median(np.nan_to_num(np.array(parts), posinf=0.0), weights)
            own = np.log(getattr(found, side) / found.value)
            reach = np.sqrt(own**2 + np.maximum(more, 0.0))
            kept = (more <= 0) | ~np.isfinite(own)
            away = found.value * np.exp(reach if side == "upper" else -reach)
            ends[side] = np.where(kept, getattr(found, side), away)[()]
    return found._replace(**ends)


def _weighted_median(values: Array, weights: Sequence[float]) -> Array:
    """Along the first axis, the least value that half of the weight is at or below."""
    order = np.argsort(values, axis=0)
    share = np.cumsum(np.asarray(weights)[order], axis=0) / np.sum(weights)
    first = (share >= 0.5 - 1e-12).argmax(axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    return np.asarray(np.take_along_axis(ordered, first[None], axis=0)[0])


def edge_weights(errors: Mapping[str, Sequence[Array]], edges: Sequence[Edge]) -> dict[str, float]:
    """Form -> share of the evidence of the edges, from errors of ln L (n_k,) at each; of sum 1.

    The likelihood of an edge's errors, normal and of unknown size, that are alike at one place: a
    form's mean square to the power of minus half the number of places, averaged over the edges.
    """
    if not edges:
        return {}
    logs = {
        form: float(
            np.mean([edge.places * np.log(np.mean(off**2)) for edge, off in zip(edges, own)])
        )
        for form, own in errors.items()
    }
    shares = akaike_weights([v if np.isfinite(v) else np.inf for v in logs.values()])
    return dict(zip(logs, shares.tolist(), strict=True))


def pooled(weights: Mapping[str, float], by_edges: Mapping[str, float]) -> dict[str, float]:
    """Weights of forms by the runs they are fitted to and, where the likeliest of these says
    significantly worse than another what it was not fitted to, half of them by that.
    """
    likeliest = max(weights, key=lambda form: weights[form])
    if by_edges.get(likeliest, 1.0) > _WORSE * max(by_edges.values(), default=0.0):
        return dict(weights)
    return {form: (w + by_edges.get(form, 0.0)) / 2 for form, w in weights.items()}
