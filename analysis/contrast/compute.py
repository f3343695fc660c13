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
    design_of,
    summed,
)
from analysis.contrast.intervals import Ellipsoid
from analysis.contrast.noise import chance_of_one_curvature, classes_of, fit_with_noise
from analysis.contrast.points import Points, points_of
from analysis.contrast.result import Contrasts, Difference, Minimum
from analysis.differences.correction import corrected
from analysis.fitting.checks import check_level
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
    "auto": of seeds where the scatter is not significantly larger.
    Intervals are by profile likelihood with Satterthwaite's degrees of freedom (intervals.py).
    Raises ValueError for what is unknown, FitError where curves, noise or a difference can't be.
    """
    check_level(level)
    points = points_of(table, x)
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
    found = [_difference(about, points, design, pair, level) for pair in asked]
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
        minima=tuple(_minimum(about, points, design, i, level) for i in range(len(points.cells))),
        differences=tuple(
            replace(one, primary=one.name in p_holm, p_holm=p_holm.get(one.name, float("nan")))
            for one in found
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


def _difference(
    about: Ellipsoid, points: Points, design: Design, pair: Pair, level: float
) -> Difference:
    share = 1 / len(pair.budgets)
    parts = [
        (sign * share, design.minimum(points.cells.index((layer, budget))))
        for budget in pair.budgets
        for layer, sign in ((pair.layer, 1.0), (pair.baseline, -1.0))
    ]
    one = about.quantity(summed(parts))
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
        p_holm=float("nan"),
    )


def _minimum(about: Ellipsoid, points: Points, design: Design, cell: int, level: float) -> Minimum:
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
