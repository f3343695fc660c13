"""IsoFLOP curves as in Fig. 1 of He 2024 (arXiv:2407.04153): perplexity against size."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis import numbers
from analysis.figures.layout import (
    at_edge,
    beyond,
    faint,
    full,
    keep_outer_labels,
    legends_below,
    one_scale,
    panels,
    star,
    swatch,
    swatches,
)
from analysis.figures.palette import Look, blend, ink, looks, page
from analysis.figures.scales import log_scale, padded
from analysis.figures.schemes import Colour
from analysis.figures.style import DASHED, LINES, edge
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitStatus
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.table.load import finished


@dataclass(frozen=True, kw_only=True)
class _Way:
    """How the curves of one budget are drawn."""

    line: object | None  # None: solid, or dashed if it has a warning
    point: float  # points
    star: float
    faded: float  # share of the page's colour


def draw_isoflop(table: pd.DataFrame, fit: IsoFLOPFit, *, together: bool = False) -> Figure:
    """Perplexity against size, a panel for each budget, a colour for each model.

    Full markers are what was fitted, faint ones all finished runs; lines the curves over their
    range, dashed if they have a warning; stars their minima, hollow if so, with the 95 % intervals
    of place and height where they are bounded. together: all budgets in one panel, as the paper has
    it, that differ by line and size of marker.
    """
    done = finished(table)
    done = done[done[fit.x_name].notna() & done["budget"].notna()]
    done = done.assign(x=done[fit.x_name].astype(float), y=np.exp(done["loss"].astype(float)))
    counts = done["budget"].value_counts()
    budgets = sorted({*(c.budget for c in fit.curves), *counts.index[counts > 1]})
    done = done[done["budget"].isin(budgets)]
    series = looks([*done["series"], *(c.model for c in fit.curves)], table)
    figure, axes = panels(1 if together else len(budgets), height=3.2 if together else 2.5)
    ways = _ways(budgets) if together else [_Way(line=None, point=4.5, star=11, faded=0)]
    whiskers = above = False
    parts = [
        (done[done["budget"].isin(shown)], [c for c in fit.curves if c.budget in shown], shown)
        for shown in ([budgets] if together else [[b] for b in budgets])
    ]
    for axis, (runs, curves, _) in zip(axes, parts, strict=True):
        log_scale(axis, "x", fit.x_name)
        log_scale(axis, "y", "perplexity")
        _limit(axis, runs, curves)
    one_scale(axes)
    for axis, (runs, curves, shown) in zip(axes, parts, strict=True):
        above |= _draw_runs(axis, runs, series)
        for curve in curves:
            way = ways[shown.index(curve.budget)]
            whiskers |= _draw_curve(axis, curve, series[curve.model], way)
        if not together:
            axis.set_title(f"{numbers.flops_mathtext(shown[0])} FLOPs")
    keep_outer_labels(axes)
    of_budgets = [_budget_swatch(b, w) for b, w in zip(budgets, ways)] if together else []
    legends_below(figure, swatches(series), of_budgets, _marks(fit, whiskers, above, together))
    return figure


def _ways(budgets: Sequence[float]) -> list[_Way]:
    """Few budgets differ by line, many by how near the page's colour is."""
    n = len(budgets)
    few = n <= len(LINES)
    return [
        _Way(
            line=LINES[i] if few else "-",
            point=float(np.interp(i, [0, max(n - 1, 1)], [3.0, 5.0])),
            star=float(np.interp(i, [0, max(n - 1, 1)], [8.5, 12.0])),
            faded=0.0 if few else 0.6 * (1 - i / (n - 1)),
        )
        for i in range(n)
    ]


def _limit(axis: Axes, runs: pd.DataFrame, curves: Sequence[IsoFLOPCurve]) -> None:
    """All sizes, and the perplexities of curves; what is far beyond them does not set the scale."""
    sizes = [*runs["x"], *(x for c in curves for x in c.sizes)]
    axis.set_xlim(*padded(sizes))
    fitted = [v for c in curves for v in (*np.exp(c.losses), *np.exp(c.loss(_grid(c))))]
    low, high = padded(fitted or runs["y"].tolist(), 0.0)
    seen = runs.loc[runs["y"] <= high * (high / low) ** 0.5, "y"]
    lowest = [float(np.exp(c.loss_interval[0])) for c in curves if c.inside]
    ends = [end for end in lowest if end >= low / (high / low) ** 0.5]
    axis.set_ylim(*padded([low, high, *seen, *ends], 0.08))


def _draw_runs(axis: Axes, runs: pd.DataFrame, series: Mapping[str, Look]) -> bool:
    """Whether some are above the axis."""
    top = axis.get_ylim()[1]
    for name, own in runs.groupby("series", sort=False):
        look = series[str(name)]
        axis.plot(own["x"], own["y"], **faint(look.colour, look.marker, 3.5, 0.35), zorder=2)
        at_edge(axis, own.loc[own["y"] > top, "x"], top, "^", look.colour)
    return bool((runs["y"] > top).any())


def _draw_curve(axis: Axes, curve: IsoFLOPCurve, look: Look, way: _Way) -> bool:
    """Whether a whisker was drawn."""
    certain = curve.status is FitStatus.CONVERGED
    colour = blend(look.colour, page(), way.faded)
    line = way.line or ("-" if certain else DASHED)
    grid = _grid(curve)
    axis.plot(grid, np.exp(curve.loss(grid)), color=colour, ls=line, zorder=3)
    dots = full(colour, look.marker, way.point)
    axis.plot(curve.sizes, np.exp(curve.losses), **dots, zorder=4)
    if not curve.x_min <= curve.x_opt <= curve.x_max:
        return False
    best = float(np.exp(curve.loss_opt))
    axis.plot(curve.x_opt, best, **star(colour, not certain, way.star), zorder=6)
    across = _draw_whisker(axis, "x", curve.x_interval, best, colour)
    lowest, highest = np.exp(curve.loss_interval)
    return _draw_whisker(axis, "y", (lowest, highest), curve.x_opt, colour) or across


def _draw_whisker(
    axis: Axes, along: str, ends: tuple[float, float], at: float, colour: Colour
) -> bool:
    """Interval along an axis, if it is bounded; an end that is beyond the axis has no cap."""
    low, high = ends
    if not (np.isfinite(low) and np.isfinite(high) and high > low > 0):
        return False
    first, last = axis.get_xlim() if along == "x" else axis.get_ylim()
    shown = [max(low, first), min(high, last)]
    caps = [end for end, seen in zip(shown, (low >= first, high <= last), strict=True) if seen]
    line: dict[str, Any] = {"color": colour, "lw": 1.0, "zorder": 5, "solid_capstyle": "butt"}
    cap: dict[str, Any] = {"color": colour, "ms": 5, "mew": 1.0, "ls": "", "zorder": 5}
    if along == "x":
        axis.plot(shown, [at, at], **line)
        axis.plot(caps, [at] * len(caps), marker="|", **cap)
    else:
        axis.plot([at, at], shown, **line)
        axis.plot([at] * len(caps), caps, marker="_", **cap)
    return True


def _grid(curve: IsoFLOPCurve) -> Array:
    inner = np.geomspace(curve.x_min, curve.x_max, 200)[1:-1]
    return np.array([curve.x_min, *inner, curve.x_max])  # exactly: Akima's is nan outside


def _marks(fit: IsoFLOPFit, whiskers: bool, above: bool, together: bool) -> list[Artist]:
    marks: list[Artist] = [swatch("minimum", **star(edge(), hollow=False))]
    if any(c.status is not FitStatus.CONVERGED for c in fit.curves):
        line = {} if together else {"ls": DASHED}
        marks.append(
            swatch(
                "minimum with a warning", **{"color": edge(), **star(edge(), hollow=True), **line}
            )
        )
    if whiskers:
        marks.append(swatch("95 % interval", edge(), ls="-", marker="|", lw=1.0))
    marks.append(swatch("all runs", edge(), marker="o", ms=3.5, mew=0, alpha=0.5))
    if above:
        marks.append(beyond())
    return marks


def _budget_swatch(budget: float, way: _Way) -> Line2D:
    colour: Colour = blend(ink(), page(), way.faded)
    return swatch(
        f"{numbers.flops_mathtext(budget)} FLOPs", colour, ls=way.line, marker="o", ms=way.point
    )
