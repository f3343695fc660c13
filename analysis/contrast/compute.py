"""Differences of the lowest losses of layers, by curves that are fitted together."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.contrast.curves import (
    Centres,
    Curvature,
    Design,
    Of,
    design_of,
    summed,
)
from analysis.contrast.intervals import Ellipsoid
from analysis.contrast.multipliers import Frontier, multiplier_of
from analysis.contrast.noise import chance_of_one_curvature, classes_of, fit_with_noise
from analysis.contrast.points import Points, points_of
from analysis.contrast.result import Contrasts, Difference, Minimum
from analysis.contrast.stopping import Asked, seeds_needed
from analysis.differences.correction import corrected
from analysis.fitting.checks import check_level, positive
from analysis.fitting.intervals import Estimate
from analysis.fitting.status import FitError
from analysis.fitting.text import join_first

_SAME = 1e-6  # relative, of budgets
FORM = "LAYER-BASELINE@FLOPS[,FLOPS]"


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A difference that is asked for: of two layers, the mean over budgets in FLOPs."""

    layer: str
    baseline: str
    budgets: tuple[float, ...]

    @property
    def name(self) -> str:
        return f"{self.layer}-{self.baseline}@{','.join(map(numbers.flops, self.budgets))}"


def contrast(
    table: pd.DataFrame,
    x: str | None = None,
    *,
    layers: Sequence[str] = (),
    baselines: Sequence[str] = (),
    primary: Sequence[str] = (),
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
    correction is for them; without any, for all. centres: "free", or "layer+budget": u* is a sum of
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
    primary: Sequence[str] = (),
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
    asked = _pairs(points, layers, baselines)
    named = [parse_pair(text, points) for text in primary]
    asked = [*named, *(pair for pair in asked if pair not in named)]
    of_class, p_classes = classes_of(points, classes)
    design = design_of(points, centres, curvature)
    fitted = fit_with_noise(points, design, of_class, errors)
    if not (fitted.curves.bends > 0).all():
        raise FitError(
            "the curves open downwards, so they have no lowest loss: take sizes nearer to the best"
        )
    about = Ellipsoid(fitted)
    how = _How(about=about, points=points, design=design, level=level, margin=margin)
    found = [_difference(how, pair) for pair in asked]
    main = [one for one in found if not named or one.name in {pair.name for pair in named}]
    p_holm = corrected({one.name: one.p for one in main})
    chance = float("nan")
    if curvature == "one":
        chance = chance_of_one_curvature(points, of_class, errors)
    return Contrasts(
        x_name=points.x_name,
        centres=centres,
        curvature=curvature,
        level=level,
        classes=of_class,
        named=classes is not None,
        p_classes=p_classes,
        noises=fitted.noises,
        curvatures={
            layer: about.interval(about.quantity(design.curvature(i)), level)
            for layer in points.layers
            for i in [next(i for i, cell in enumerate(points.cells) if cell[0] == layer)]
        },
        p_curvature=chance,
        n_points=len(points.u),
        n_runs=int(points.n.sum()),
        minima=tuple(_minimum(how, i) for i in range(len(points.cells))),
        differences=tuple(
            replace(one, primary=one.name in p_holm, p_holm=p_holm.get(one.name, float("nan")))
            for one in found
        ),
        margin=margin,
        stop=stop,
        needed=()
        if stop is None
        else tuple(
            seeds_needed(points, fitted, about, _asked(how, one), stop, level)
            for one in found
            if one.name in p_holm
        ),
        left_out=points.left_out,
    )


def parse_pair(text: str, points: Points) -> Pair:
    """A difference by its name, as FORM has it. Raises ValueError saying what it may be."""
    name, at, flops = text.partition("@")
    for i in [match.start() for match in re.finditer("-", name)]:
        layer, baseline = name[:i], name[i + 1 :]
        if layer in points.layers and baseline in points.layers and layer != baseline:
            break
    else:
        raise ValueError(f"primary={text!r} must be {FORM} of two of {', '.join(points.layers)}")
    budgets = tuple(_budget(text, part, points) for part in flops.split(",")) if at else ()
    if not budgets or len(set(budgets)) < len(budgets):
        raise ValueError(f"primary={text!r} must be {FORM}, each budget once")
    pair = Pair(layer=layer, baseline=baseline, budgets=budgets)
    for budget in budgets:
        for one in (layer, baseline):
            if (one, budget) not in points.cells:
                raise ValueError(f"primary={text!r}: {one} has no curve at {numbers.flops(budget)}")
    return pair


def _budget(text: str, part: str, points: Points) -> float:
    try:
        value = float(part)
    except ValueError:
        value = float("nan")
    for budget in points.budgets:
        if abs(value / budget - 1) < _SAME:
            return budget
    have = ", ".join(map(numbers.flops, points.budgets))
    raise ValueError(f"primary={text!r}: {part!r} is no budget of the curves; they have {have}")


def _pairs(points: Points, layers: Sequence[str], baselines: Sequence[str]) -> list[Pair]:
    """Every layer minus every baseline, at each budget that both have."""
    for role, names in (("layer", layers), ("baseline", baselines)):
        for name in names:
            if name not in points.layers:
                have = join_first(points.layers, 8)
                raise ValueError(f"{role}={name!r} has no curve; there are {have}")
    subtracted = baselines or (points.layers if layers else ("dense",))
    found = [
        Pair(layer=layer, baseline=baseline, budgets=(budget,))
        for baseline in subtracted
        for layer in layers or points.layers
        for budget in points.budgets
        if layer != baseline and {(layer, budget), (baseline, budget)} <= set(points.cells)
    ]
    if not found:
        raise ValueError(
            f"no two layers to compare: baseline={', '.join(subtracted)!r}, and there are "
            f"{join_first(points.layers, 8)}; name one of them as baseline"
        )
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _How:
    about: Ellipsoid
    points: Points
    design: Design
    level: float
    margin: float | None

    def lowest(self, layer: str, budget: float) -> Of:
        return self.design.minimum(self.points.cells.index((layer, budget)))


def _of(how: _How, layer: str, baseline: str, budgets: Sequence[float]) -> Of:
    """The mean difference."""
    share = 1 / len(budgets)
    pair = ((layer, share), (baseline, -share))
    return summed([(sign, how.lowest(name, b)) for b in budgets for name, sign in pair])


def _difference(how: _How, pair: Pair) -> Difference:
    about, nan = how.about, float("nan")
    one = about.quantity(_of(how, pair.layer, pair.baseline, pair.budgets))
    multiplier, beyond = Estimate(nan, nan, nan), False
    frontier = Frontier(how.points, how.design, pair.baseline)
    if len(pair.budgets) == 1 and frontier.why_not(about) is None:
        (budget,) = pair.budgets
        of = frontier.multiplier(how.lowest(pair.layer, budget), budget)
        multiplier = multiplier_of(about, frontier, of, how.level)
        beyond = frontier.is_beyond(about, about.quantity(of), budget)
    return Difference(
        name=pair.name,
        layer=pair.layer,
        baseline=pair.baseline,
        budgets=pair.budgets,
        value=about.interval(one, how.level),
        se=one.se,
        dof=one.dof,
        p=about.chance(one),
        primary=False,
        p_holm=nan,
        p_equal=nan if how.margin is None else about.chance_beyond(one, how.margin),
        multiplier=multiplier,
        beyond=beyond,
    )


def _asked(how: _How, one: Difference) -> Asked:
    cells = how.points.cells
    pairs = [(layer, b) for layer in (one.layer, one.baseline) for b in one.budgets]
    return Asked(
        name=one.name,
        of=_of(how, one.layer, one.baseline, one.budgets),
        cells=tuple(cells.index(pair) for pair in pairs),
        half_width=one.half_width,
    )


def _minimum(how: _How, cell: int) -> Minimum:
    about, points, design, level = how.about, how.points, how.design, how.level
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
