"""A light and a dark look for figures; the draw functions keep to whatever rcParams are active."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import matplotlib.pyplot as plt

from analysis.figures import palette, schemes

FONT = 9.0  # points, in panels of PANEL inches: legible in a printed column
PANEL = (3.3, 2.7)  # inches
DASHED = (0, (4, 2))  # of what has a warning
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
_LIGHT = ("#ffffff", "#1f2328", "#6b727d", "#e2e5e9")  # page, ink, edge, grid
_DARK = ("#16181d", "#e6e8eb", "#8a919c", "#31353d")
_SIZES: dict[Any, Any] = {
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.title_fontsize": 8,
    "legend.frameon": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "savefig.dpi": 150,
    "svg.hashsalt": "analysis",  # else ids are random, and a committed report changes throughout
}


@dataclass(frozen=True, kw_only=True)
class Columns:
    """A paper's: the widths of a figure of one panel, and of several, in inches; points of text."""

    one: float = 3.25
    two: float = 6.75
    font: float = 8.0


_columns: list[Columns] = []  # of the active style(columns=...)


@contextmanager
def style(
    dark: bool = False, models: Sequence[str] = (), columns: Columns | None = None
) -> Iterator[Mapping[str, str]]:
    """Draw and save within it: text, edges and background of a light (#ffffff) or dark page.

    models: all that a report's figures show, so that names other than the harness's get the same
    colours in each; the harness's own always do. Yields, of a light page, what a dark one has in
    place of each colour drawn so far, #rrggbb -> #rrggbb, to be swapped in an SVG.

    columns: of a paper. Figures are as wide as these, all their text has one size, and panels of
    one quantity have one scale.
    """
    page, ink, edge, grid = _DARK if dark else _LIGHT
    backgrounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    colours: dict[Any, Any] = {
        **dict.fromkeys(backgrounds, page),
        **dict.fromkeys((*inks, "ytick.labelcolor"), ink),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), edge),
        "grid.color": grid,
    }
    before, pairs_before = list(palette.known_models), dict(schemes.pairs)
    columns_before, _columns[:] = list(_columns), [columns] if columns else []
    sizes = {name: columns.font for name in _SIZES if "size" in name} if columns else {}
    palette.known_models[:] = models
    schemes.pairs.clear()
    if not dark:
        schemes.pairs.update(zip(_LIGHT, _DARK, strict=True))
    try:
        with plt.rc_context({**_SIZES, **sizes, **colours}):
            yield schemes.pairs
    finally:
        palette.known_models[:] = before
        _columns[:] = columns_before
        schemes.pairs.clear()
        schemes.pairs.update(pairs_before)


def paper() -> Columns | None:
    """Columns of the active style; None on a page."""
    return _columns[-1] if _columns else None


def small() -> Any:
    """Font size of annotations: that of legends."""
    return plt.rcParams["legend.fontsize"]


def edge() -> Any:
    """Colour of axes and of lines that are no series."""
    return plt.rcParams["axes.edgecolor"]
