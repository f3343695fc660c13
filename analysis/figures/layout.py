"""Panels, legends below them, and labels that keep apart."""

from collections.abc import Mapping, Sequence
from math import ceil
from textwrap import fill
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedFormatter, FixedLocator
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from analysis.figures.palette import Look, ink, page
from analysis.figures.schemes import Colour
from analysis.figures.style import FONT, PANEL, edge, paper, small
from analysis.fitting.intervals import Estimate

_LINE = 34  # characters of a legend's entry as wide as a panel
N_WIDE = 4  # panels in a row, at most
_N_WIDE_IN_PAPER = 3


class RoundedLayout(ConstrainedLayoutEngine):
    """Constrained layout on a grid of 2^-14 of the figure.

    The solver takes its constraints in the order of memory addresses, so that its answers differ in
    the last bits; the ids of an SVG are made from all bits, and a redrawn page would differ.
    """

    def execute(self, fig: Figure) -> None:
        super().execute(fig)
        for axis in fig.axes:
            if axis.get_in_layout():
                corners = np.round(axis.get_position(original=True).extents * 2**14) / 2**14
                axis.set_position(Bbox.from_extents(*corners))
                axis.set_in_layout(True)  # set_position takes it out of the layout


def lay_out(figure: Figure) -> None:
    """Places its panels. Much quicker than a draw, which does this first."""
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)


def settle(figure: Figure) -> None:
    """Keeps the ticks and the places of axes' labels as they are after lay_out.

    Else each draw finds them several times again, in a third of its time.
    """
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes in figure.axes:
        locate = axes.get_axes_locator()  # a colour bar's: its place is found when it is drawn
        axes.apply_aspect(locate(axes, renderer) if locate is not None else None)
        to_axes = axes.transAxes.inverted()
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_tightbbox(renderer) is None:
                continue
            for minor, choose in ((False, axis.set_major_locator), (True, axis.set_minor_locator)):
                places = [float(place) for place in axis.get_ticklocs(minor=minor)]
                formatter = axis.get_minor_formatter() if minor else axis.get_major_formatter()
                fixed = FixedFormatter(formatter.format_ticks(places))
                fixed.set_offset_string(formatter.get_offset())
                choose(FixedLocator(places))
                (axis.set_minor_formatter if minor else axis.set_major_formatter)(fixed)
            label = axis.label
            x, y = to_axes.transform(label.get_transform().transform(label.get_position()))
            axis.set_label_coords(x, y)


def panels(
    n: int, n_columns: int | None = None, height: float = PANEL[1]
) -> tuple[Figure, list[Axes]]:
    """A figure of n panels in rows of N_WIDE at most, evenly filled; sizes follow the font's. In a
    paper it is as wide as one column or two.
    """
    columns = paper()
    n_rows = ceil(n / (n_columns or (N_WIDE if columns is None else _N_WIDE_IN_PAPER)))
    n_columns = n_columns or ceil(n / n_rows)
    n_rows = ceil(n / n_columns)
    scale = float(plt.rcParams["font.size"]) / FONT
    width = PANEL[0] * n_columns * scale
    if columns is not None:
        width = columns.one if n_columns == 1 else columns.two
    figure = plt.figure(
        figsize=(width, (height * n_rows + 0.3) * scale),
        layout=RoundedLayout(),
    )
    grid = figure.add_gridspec(n_rows, n_columns)
    axes = [figure.add_subplot(grid[divmod(i, n_columns)]) for i in range(n)]
    for axis in axes:
        axis.grid(which="minor", visible=False)
    return figure, axes


def keep_outer_labels(axes: Sequence[Axes], *, x: bool = True, y: bool = True) -> None:
    """Names an abscissa or ordinate that panels share once: below a column, or left of a row."""
    specs = [spec for axis in axes if (spec := axis.get_subplotspec()) is not None]
    last = {spec.colspan.start: spec.rowspan.start for spec in specs}
    for axis, spec in zip(axes, specs, strict=True):
        if x and spec.rowspan.start < last[spec.colspan.start]:
            axis.set_xlabel("")
        if y and not spec.is_first_col():
            axis.set_ylabel("")


def one_scale(axes: Sequence[Axes]) -> None:
    """In a paper, gives panels of one quantity the range of all of them."""
    if paper() is None:
        return
    ranges: dict[tuple[str, str], list[Axes]] = {}
    label = ""
    for axis in axes:
        spec = axis.get_subplotspec()
        first = spec is None or spec.is_first_col()
        label = axis.get_ylabel() or ("" if first else label)  # named once, left of a row
        ranges.setdefault((label, axis.get_yscale()), []).append(axis)
    for own in ranges.values():
        ends = np.array([axis.get_ylim() for axis in own])
        for axis in own:
            axis.set_ylim(ends.min(), ends.max())


def legends_below(figure: Figure, *groups: Sequence[Artist], titles: Sequence[str] = ()) -> None:
    """A legend a group, one below the other under the panels, each in as many columns as fit.

    The figure grows by their height: panels keep theirs.
    """
    named = [*titles, *[""] * (len(groups) - len(titles))]
    legends = [
        _legend(figure, group, title) for group, title in zip(groups, named, strict=True) if group
    ]
    heights = [legend.get_window_extent().height / figure.dpi for legend in legends]
    whole = figure.get_figheight() + sum(heights)
    figure.set_figheight(whole)
    top = sum(heights)
    engine = figure.get_layout_engine()
    assert isinstance(engine, ConstrainedLayoutEngine)
    engine.set(rect=(0, top / whole, 1, 1 - top / whole))
    for legend, height in zip(legends, heights, strict=True):
        legend.set_bbox_to_anchor((0.5, top / whole), figure.transFigure)
        top -= height


def _legend(figure: Figure, handles: Sequence[Artist], title: str) -> Legend:
    n_columns = min(len(handles), 8)
    while True:
        legend = figure.legend(
            handles=_by_rows(handles, n_columns),
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            borderaxespad=0.2,
            ncols=n_columns,
            title=title or None,
            columnspacing=1.2,
            handlelength=2.2,
        )
        if legend.get_window_extent().width <= 0.98 * figure.bbox.width:
            return legend
        if n_columns == 1 and not any(len(line) > _LINE for line in _lines(handles)):
            return legend
        legend.remove()
        if n_columns == 1:
            for handle in handles:
                handle.set_label("\n".join(fill(line, _LINE) for line in _lines([handle])))
        n_columns = max(n_columns - 1, 1)


def _lines(handles: Sequence[Artist]) -> list[str]:
    return [line for handle in handles for line in str(handle.get_label()).split("\n")]


def _by_rows(handles: Sequence[Artist], n_columns: int) -> list[Artist]:
    """Reordered to be read by rows, for a legend is filled column by column."""
    cells = [*handles, *[swatch("")] * (-len(handles) % n_columns)]
    return [cells[i] for k in range(n_columns) for i in range(k, len(cells), n_columns)]


def legend_above(axis: Axes, handles: Sequence[Artist], title: str) -> None:
    """In place of the panel's title: a marker and a text each, two a row if these fit."""
    figure = axis.get_figure(root=True)
    assert figure is not None
    spec = axis.get_subplotspec()
    assert spec is not None
    wide = 0.9 * figure.bbox.width / spec.get_gridspec().ncols
    for n_columns in (2, 1):
        legend = axis.legend(
            handles=_by_rows(handles, n_columns),
            loc="lower left",
            bbox_to_anchor=(-0.12, 1.0),
            borderaxespad=0.2,
            title=title,
            alignment="left",
            ncols=n_columns,
            columnspacing=1.0,
            handlelength=0.8,
            labelspacing=0.25,
        )
        if legend.get_window_extent().width <= wide:
            return


def swatch(label: str, colour: Colour | None = None, **options: Any) -> Line2D:
    """A legend's entry: a line or marker, in the ink where there is no colour."""
    kwargs = {"ls": "", "color": colour or ink(), "ms": 5, **options}
    return Line2D([], [], label=label, **kwargs)


def swatches(series: Mapping[str, Look], ls: str = "-") -> list[Line2D]:
    """A legend's entry for each series."""
    return [swatch(name, look.colour, marker=look.marker, ls=ls) for name, look in series.items()]


def band_swatch(label: str, colour: Colour | None = None) -> Patch:
    """A legend's entry for an interval."""
    return Patch(facecolor=colour or edge(), alpha=0.3, label=label)


def beyond() -> Line2D:
    """Legend's entry of at_edge."""
    return swatch("beyond the axis", edge(), marker="^", ms=3.5, alpha=0.5)


def star(colour: Colour, hollow: bool, size: float = 10.0) -> dict[str, Any]:
    """Options of a minimum's marker: filled, or hollow if it has a warning."""
    return {
        "marker": "*",
        "ms": size,
        "mfc": page() if hollow else colour,
        "mec": colour if hollow else ink(),
        "mew": 1.1 if hollow else 0.6,
        "ls": "",
    }


def point(look: Look, hollow: bool) -> dict[str, Any]:
    """Options of a result's marker: filled, or hollow if it needs care."""
    return {
        "marker": look.marker,
        "ms": 5.5,
        "mfc": page() if hollow else look.colour,
        "mec": look.colour if hollow else page(),
        "mew": 1.1 if hollow else 0.4,
        "ls": "",
    }


def faint(colour: Colour, marker: str, size: float, alpha: float) -> dict[str, Any]:
    """Options of runs behind what was fitted to them."""
    return {"color": colour, "marker": marker, "ms": size, "alpha": alpha, "mew": 0, "ls": ""}


def full(colour: Colour, marker: str, size: float = 5) -> dict[str, Any]:
    """Options of runs that were fitted, or the best."""
    return {"color": colour, "marker": marker, "ms": size, "mec": page(), "mew": 0.4, "ls": ""}


def errors(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Lengths down and up, for errorbar; nan, which is not drawn, without an interval."""
    known = [e if e.lower <= e.upper else Estimate.around(e.value, np.nan) for e in estimates]
    return [[e.value - e.lower for e in known], [e.upper - e.value for e in known]]


def label_ends(axis: Axes, ends: Sequence[tuple[float, float, str, Colour]]) -> None:
    """Texts right of points (x, y, text, colour), moved up where they would overlap.

    Call it last: it lays the figure out to see where the points are.
    """
    figure = axis.get_figure(root=True)
    assert figure is not None
    lay_out(figure)
    step = 1.25 * FontProperties(size=small()).get_size_in_points()
    taken: list[tuple[float, float]] = []
    for x, y, text, colour in sorted(ends, key=lambda end: end[1]):
        at = axis.transData.transform((x, y)) * 72 / figure.dpi
        lifted = float(at[1])
        for other_x, other_y in sorted(taken, key=lambda place: place[1]):
            if abs(other_x - at[0]) < 5 * step and abs(other_y - lifted) < step:
                lifted = other_y + step
        taken.append((float(at[0]), lifted))
        axis.annotate(
            text,
            (x, y),
            xytext=(6, lifted - float(at[1])),
            textcoords="offset points",
            va="center",
            color=colour,
            fontsize=small(),
            annotation_clip=False,
        )


def at_edge(axis: Axes, x: ArrayLike, edge_y: float, marker: str, colour: Colour) -> None:
    """Marks the places of points that are beyond the axis, at its edge."""
    x = np.asarray(x, dtype=np.float64)
    if len(x):
        y = np.full(len(x), edge_y)
        axis.plot(x, y, marker=marker, ms=3.5, ls="", color=colour, alpha=0.5, clip_on=False)
