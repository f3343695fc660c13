"""Perplexity against measured seconds: the worth of an hour, where others have that of a FLOP."""

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import numbers
from analysis.figures.layout import (
    at_edge,
    beyond,
    keep_outer_labels,
    legends_below,
    one_scale,
    panels,
    swatch,
    swatches,
)
from analysis.figures.palette import Look, looks, page
from analysis.figures.plot import Plot
from analysis.figures.scales import log_scale, padded
from analysis.figures.style import edge
from analysis.study import Study
from analysis.table.checks import require
from analysis.table.load import best_of_cells, finished

TITLE = "Wall-clock time"  # of its section in reports


def training_seconds(table: pd.DataFrame) -> pd.Series:
    """Seconds that each run's training takes: its tokens at the usual rate of its layers and size.

    That is the median tokens_per_second of all finished runs of its series and size, whatever
    their budget or seed, so that neither other work beside a run nor a faster hour of a shared
    machine moves one size against another. NA without any.
    """
    done = table["status"] == "done"
    rates = table["tokens_per_second"].where(done)
    usual = rates.groupby([table["series"], table["n_params"]]).transform("median")
    return table["n_tokens"] / usual


def draw_seconds(table: pd.DataFrame) -> Figure:
    """Perplexity against seconds of training, a panel a budget, and one with the best of each.

    A line joins the sizes of one model in order, and the best is ringed. Seconds are those of
    training_seconds; learning rates and seeds of one size count as in best_of_cells. Budgets with
    one run are excluded. Raises ValueError if none is left, or a run's rate is unknown.
    """
    require(table, ["budget", "n_params", "n_tokens", "tokens_per_second"], "draw_seconds")
    runs = finished(table.assign(seconds=training_seconds(table)))
    cells = best_of_cells(runs, by=["series", "budget", "n_params"]).sort_values("n_params")
    cells = cells.assign(y=cells["perplexity"].astype(float))
    counts = cells["budget"].value_counts()
    cells = cells[cells["budget"].isin(counts.index[counts > 1])]
    if cells.empty:
        raise ValueError("draw_seconds: no budget has two runs to compare")
    series = looks(cells["series"], table)
    budgets = sorted(cells["budget"].unique())
    best = cells.loc[cells.groupby(["series", "budget"])["loss"].idxmin()].sort_values("budget")
    few = len(budgets) < 2
    figure, axes = panels(len(budgets) + (not few), height=2.5)
    parts = [(cells[cells["budget"] == budget], True) for budget in budgets]
    parts += [] if few else [(best, False)]
    for axis, (shown, ringed) in zip(axes, parts, strict=True):
        _limit(axis, shown, ringed=ringed)
    one_scale(axes)
    above = False
    for axis, (shown, ringed) in zip(axes, parts, strict=True):
        above |= _draw(axis, shown, series, ringed=ringed)
    for axis, budget in zip(axes, budgets, strict=False):
        axis.set_title(f"{numbers.flops_mathtext(budget)} FLOPs")
    if not few:
        axes[-1].set_title("the best of each budget")
    keep_outer_labels(axes)
    ring = swatch("best size", edge(), marker="o", ms=9, mfc="none")
    legends_below(figure, swatches(series), [ring, *([beyond()] if above else [])])
    return figure


def _limit(axis: Axes, cells: pd.DataFrame, *, ringed: bool) -> None:
    """All of them; where sizes are ringed, without those far above the best."""
    log_scale(axis, "x", "seconds")
    log_scale(axis, "y", "perplexity")
    axis.set_xlim(*padded(cells["seconds"].tolist(), 0.08))
    shown = cells.groupby("series")["y"].min() if ringed else cells["y"]
    low, high = padded(shown.tolist(), 0.0)
    seen = cells.loc[cells["y"] <= high * max((high / low) ** 3, 1.25), "y"]
    axis.set_ylim(*padded([low, high, *seen], 0.08))


def _draw(axis: Axes, cells: pd.DataFrame, series: Mapping[str, Look], *, ringed: bool) -> bool:
    """Whether some are above the axis."""
    top = axis.get_ylim()[1]
    for name, look in series.items():
        own = cells[cells["series"] == name]
        if own.empty:
            continue
        x, y = own["seconds"], own["y"]
        axis.plot(x, y, marker=look.marker, ms=4.5, mec=page(), mew=0.4, color=look.colour)
        at_edge(axis, own.loc[y > top, "seconds"], top, "^", look.colour)
        if ringed:
            first = int(y.to_numpy().argmin())
            ring: dict[str, Any] = {"marker": "o", "ms": 9, "mfc": "none", "mec": look.colour}
            axis.plot(x.iloc[first], y.iloc[first], ls="", zorder=5, **ring)
    return bool((cells["y"] > top).any())


def plots(study: Study) -> Iterator[Plot]:
    """None where rates are not recorded, or budgets unknown."""
    done = finished(study.table)
    if done["tokens_per_second"].notna().any() and done["budget"].notna().all():
        yield Plot(
            name="seconds",
            caption="Perplexity against seconds of training on the machine that the runs were made "
            "on",
            make=partial(draw_seconds, study.table),
        )
