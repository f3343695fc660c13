"""Differences of the lowest losses of layers, by curves that are fitted together."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import pandas as pd

from analysis.contrast.curves import (
    Centres,
    Curvature,
)
from analysis.contrast.fit import Fit, fit_points
from analysis.contrast.multipliers import Frontier, multiplier_of
from analysis.contrast.noise import chance_of_one_curvature
from analysis.contrast.pairs import Pair, pairs_of, parse_pair
from analysis.contrast.points import Points, points_of
from analysis.contrast.result import Contrasts, Difference, Minimum
from analysis.contrast.stopping import seeds_needed
from analysis.differences.correction import corrected
from analysis.fitting.checks import check_level, positive
from analysis.fitting.intervals import Estimate


def contrast(
    table: pd.DataFrame,
    x: str | None = None,
    *,
    layers: Sequence[str] = (),
    baselines: Sequence[str] = (),
    primary: Sequence[str] | None = None,
    centres: Centres = "free",
    curvature: Curvature = "one",
    classes: Mapping[str, Sequence[str]] | None = None,
    errors: str = "auto",
    margin: float | None = None,
    stop: float | None = None,
    level: float = 0.95,
) -> Contrasts:
    """One curve lowest + k (u - u*)^2 in u = ln(size) a layer and budget, all fitted together, and
    the differences of their lowest losses.

    x: of points.SIZES. layers, baselines: each of the first minus each of the second at every
    budget that both have; by default all layers minus dense, or the named layers minus all others.
    primary: of these or others, as "peer-none@3e13" or with several budgets for their mean: Holm's
    correction is for them; None: for all. centres: "free", or "layer+budget": u* is a sum of
    two parts. curvature: "one" k for all, or one a "layer". classes: name -> layers of equal noise
    (noise.classes_of). errors: whether noise is of "seeds", of the "scatter" about the curves, or
    "auto": of seeds where the scatter is not significantly larger. margin: nats, within which two
    lowest losses count as equal. stop: a half-width in nats; the seeds that the primary differences
    need for it.
    Intervals are by profile likelihood with Satterthwaite's degrees of freedom (intervals.py).
    Raises ValueError for what is unknown, FitError where curves, noise or a difference can't be.
    """
    return contrast_points(
        points_of(table, x),
        layers=layers,
        baselines=baselines,
        primary=primary,
        centres=centres,
        curvature=curvature,
        classes=classes,
        errors=errors,
        margin=margin,
        stop=stop,
        level=level,
    )


def contrast_points(
    points: Points,
    *,
    layers: Sequence[str] = (),
    baselines: Sequence[str] = (),
    primary: Sequence[str] | None = None,
    centres: Centres = "free",
    curvature: Curvature = "one",
    classes: Mapping[str, Sequence[str]] | None = None,
    errors: str = "auto",
    margin: float | None = None,
    stop: float | None = None,
    level: float = 0.95,
) -> Contrasts:
    """contrast, of points that are known."""
    check_level(level)
    for name, value in (("margin", margin), ("stop", stop)):
        if value is not None:
            positive(name, value)
    asked = pairs_of(points, layers, baselines)
    named = list(dict.fromkeys(parse_pair(text, points) for text in primary or ()))
    asked = [*named, *(pair for pair in asked if pair not in named)]
    fit = fit_points(points, centres=centres, curvature=curvature, classes=classes, errors=errors)
    found = [_difference(fit, pair, level, margin) for pair in asked]
    main = found if primary is None else found[: len(named)]
    p_holm = corrected({one.name: one.p for one in main})
    chance = float("nan")
    if curvature == "one":
        chance = chance_of_one_curvature(points, fit.classes, errors)
    return Contrasts(
        x_name=points.x_name,
        centres=centres,
        curvature=curvature,
        level=level,
        classes=fit.classes,
        named=classes is not None,
        p_classes=fit.p_classes,
        noises=fit.fitted.noises,
        curvatures={
            layer: fit.about.interval(fit.about.quantity(fit.design.curvature(i)), level)
            for layer in points.layers
            for i in [next(i for i, cell in enumerate(points.cells) if cell[0] == layer)]
        },
        p_curvature=chance,
        n_points=len(points.u),
        n_runs=int(points.n.sum()),
        minima=tuple(_minimum(fit, i, level) for i in range(len(points.cells))),
        differences=tuple(
            replace(one, primary=one.name in p_holm, p_holm=p_holm.get(one.name, float("nan")))
            for one in found
        ),
        margin=margin,
        stop=stop,
        needed=()
        if stop is None
        else tuple(
            seeds_needed(fit, one.layer, one.baseline, one.budgets, stop, level)
            for one in found
            if one.name in p_holm
        ),
        left_out=points.left_out,
    )


def _difference(fit: Fit, pair: Pair, level: float, margin: float | None) -> Difference:
    about, nan = fit.about, float("nan")
    one = about.quantity(fit.difference(pair.layer, pair.baseline, pair.budgets))
    multiplier, beyond = Estimate(nan, nan, nan), False
    frontier = Frontier(fit.points, fit.design, pair.baseline)
    if len(pair.budgets) == 1 and frontier.why_not(about) is None:
        (budget,) = pair.budgets
        of = frontier.multiplier(fit.lowest(pair.layer, budget), budget)
        multiplier = multiplier_of(about, frontier, of, level)
        beyond = frontier.is_beyond(about, about.quantity(of), budget)
    return Difference(
        name=pair.name,
        layer=pair.layer,
        baseline=pair.baseline,
        budgets=pair.budgets,
        value=about.interval(one, level),
        se=one.se,
        dof=one.dof,
        p=about.chance(one),
        primary=False,
        p_holm=nan,
        p_equal=nan if margin is None else about.chance_beyond(one, margin),
        multiplier=multiplier,
        beyond=beyond,
    )


def _minimum(fit: Fit, cell: int, level: float) -> Minimum:
    about, points, design = fit.about, fit.points, fit.design
    layer, budget = points.cells[cell]
    own = points.of == cell
    place = about.interval(about.quantity(design.place(cell)), level)
    with np.errstate(over="ignore"):
        size = Estimate(*(float(np.exp(points.centre + at)) for at in place))
    low, high = points.range_of(points.cells[cell])
    return Minimum(
        layer=layer,
        budget=budget,
        n_sizes=int(own.sum()),
        n_runs=int(points.n[own].sum()),
        size=size,
        loss=about.interval(about.quantity(design.minimum(cell)), level),
        inside=low <= size.value <= high,
    )
