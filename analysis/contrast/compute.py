"""Differences of the lowest losses of layers, by curves that are fitted together."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis.contrast.fit import Fit, fit_points
from analysis.contrast.multipliers import Frontier, estimate_multiplier
from analysis.contrast.noise import chance_of_one_curvature
from analysis.contrast.pairs import Pair, make_pairs, over_budgets, parse_pair
from analysis.contrast.points import Points, make_points
from analysis.contrast.result import Contrasts, Difference, Minimum
from analysis.contrast.settings import Settings
from analysis.contrast.slopes import estimate_slope, why_no_slope
from analysis.contrast.sources import NOISE_ALONE, Sources, find_sources
from analysis.contrast.stopping import seeds_needed
from analysis.differences.correction import corrected
from analysis.fitting.intervals import Estimate
from analysis.table.documents import Documents
from analysis.table.warned import warned


@warned()
def compute_contrasts(
    table: pd.DataFrame,
    x: str | None = None,
    *,
    documents: Documents | None = None,
    rates: Path | None = None,
    **settings: Any,
) -> Contrasts:
    """One curve lowest + k (u - u*)^2 in u = ln(size) a layer and budget, all fitted together, and
    the differences of their lowest losses.

    x: of points.XS; settings: fields of Settings. Intervals are by profile likelihood with
    Satterthwaite's degrees of freedom (intervals.py). They hold the noise of runs. documents: of
    the table's records, as read_source has them, and intervals hold besides which documents were
    held out, if all runs were scored on the same; rates: a rates.json that `analysis rates` wrote,
    and they hold besides that the rates used are not the best (rates/saved.py).
    Raises ValueError for what is unknown, FitError where curves, noise or a difference can't be.
    """
    points = make_points(table, x)
    return contrast_points(points, Settings(**settings), find_sources(points, documents, rates))


def contrast_points(
    points: Points, settings: Settings, sources: Sources = NOISE_ALONE
) -> Contrasts:
    """compute_contrasts, of points that are known."""
    level, primary = settings.level, settings.primary
    asked = make_pairs(points, settings.layers, settings.baselines)
    named = list(dict.fromkeys(parse_pair(text, points) for text in primary or ()))
    asked = [*named, *(pair for pair in asked if pair not in named)]
    fit = fit_points(points, settings, sources.beside)
    found = [_difference(fit, pair, settings) for pair in asked]
    main = found if primary is None else found[: len(named)]
    p_holm = corrected({one.name: one.p for one in main})
    chance = float("nan")
    if settings.curvature == "one":
        chance = chance_of_one_curvature(points, fit.classes, settings.errors)
    return Contrasts(
        x_name=points.x_name,
        centres=settings.centres,
        curvature=settings.curvature,
        level=level,
        classes=fit.classes,
        named=settings.classes is not None,
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
        holds=sources.holds,
        lacks=sources.lacks,
        minima=tuple(_minimum(fit, i, level) for i in range(len(points.cells))),
        differences=tuple(
            replace(one, primary=one.name in p_holm, p_holm=p_holm.get(one.name, float("nan")))
            for one in found
        ),
        slopes=tuple(
            estimate_slope(fit, pair, level)
            for pair in over_budgets(asked)
            if why_no_slope(fit, pair) is None
        ),
        margin=settings.margin,
        stop=settings.stop,
        needed=()
        if settings.stop is None
        else tuple(
            seeds_needed(fit, pair, settings.stop, level) for pair in asked if pair.name in p_holm
        ),
        left_out=points.left_out,
    )


def _difference(fit: Fit, pair: Pair, settings: Settings) -> Difference:
    about, level, margin, nan = fit.about, settings.level, settings.margin, float("nan")
    one = about.quantity(fit.difference(pair))
    multiplier, beyond = Estimate(nan, nan, nan), False
    frontier = Frontier(fit.points, fit.design, pair.baseline)
    if len(pair.budgets) == 1 and frontier.why_not(about) is None:
        (budget,) = pair.budgets
        of = frontier.multiplier(fit.lowest(pair.layer, budget), budget)
        multiplier = estimate_multiplier(about, frontier, of, level)
        beyond = frontier.is_beyond(about, about.quantity(of), budget)
    return Difference(
        name=pair.name,
        layer=pair.layer,
        baseline=pair.baseline,
        budgets=pair.budgets,
        value=about.interval(one, level),
        se=one.se,
        dof=one.noise.dof,
        shares=one.shares,
        shifts={error.name: error.shift for error in one.beside if error.shift},
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
    low, high = points.find_range(points.cells[cell])
    return Minimum(
        layer=layer,
        budget=budget,
        n_sizes=int(own.sum()),
        n_runs=int(points.n[own].sum()),
        size=size,
        loss=about.interval(about.quantity(design.minimum(cell)), level),
        inside=low <= size.value <= high,
    )
