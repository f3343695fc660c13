"""A light and a dark look for figures; the draw functions keep to whatever rcParams are active."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt

from analysis.figures import palette

FONT = 9.0  # points, in panels of PANEL inches: legible in a printed column
PANEL = (3.3, 2.7)  # inches
DASHED = (0, (4, 2))  # of what is doubtful
LINES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
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


@contextmanager
def style(dark: bool = False, models: Sequence[str] = ()) -> Iterator[None]:
    """Draw and save within it: text, edges and background of a light (#ffffff) or dark page.

    models: all that a report's figures show, so that names other than the harness's get the same
    colours in each; the harness's own always do.
    """
    page, ink, edge, grid = (
        ("#16181d", "#e6e8eb", "#8a919c", "#31353d")
        if dark
        else ("#ffffff", "#1f2328", "#6b727d", "#e2e5e9")
    )
    backgrounds = ("figure.facecolor", "axes.facecolor", "savefig.facecolor", "legend.facecolor")
    inks = ("text.color", "axes.labelcolor", "axes.titlecolor", "xtick.labelcolor")
    colours: dict[Any, Any] = {
        **dict.fromkeys(backgrounds, page),
        **dict.fromkeys((*inks, "ytick.labelcolor"), ink),
        **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color"), edge),
        "grid.color": grid,
    }
    before = list(palette.known_models)
    palette.known_models[:] = models
    try:
        with plt.rc_context({**_SIZES, **colours}):
            yield
    finally:
        palette.known_models[:] = before


def small() -> Any:
    """The font size of annotations: that of legends."""
    return plt.rcParams["legend.fontsize"]


def edge() -> Any:
    """The colour of axes and of lines that are no series."""
    return plt.rcParams["axes.edgecolor"]
