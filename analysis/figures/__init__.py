"""Figures take tables and results and return a Figure; they neither fit nor read files.

with analysis.figures.style(dark=True):
    analysis.figures.draw_isoflop(table, fit).savefig("isoflop.png")

Each file here is found by itself: its draw_* are names of this package, and what its plots(study)
gives is in reports, in a section that is called as its TITLE.
"""

from collections.abc import Callable
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from analysis.figures.plot import Plot
from analysis.figures.scales import relabel
from analysis.figures.style import style
from analysis.study import Study
from experiments.system.page.colours import MODEL_COLOURS

_FILES = [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]
_DRAWINGS = {
    name: draw
    for file in _FILES
    for name, draw in vars(file).items()
    if name.startswith("draw_") and draw.__module__ == file.__name__
}
globals().update(_DRAWINGS)
__all__ = ["MODEL_COLOURS", "list_plots", "relabel", "style", *_DRAWINGS]

if TYPE_CHECKING:

    def __getattr__(name: str) -> Callable[..., Figure]: ...


def list_plots(study: Study) -> dict[str, list[Plot]]:
    """Plots that files have of a study, by the title of their section."""
    found: dict[str, list[Plot]] = {}
    for file in _FILES:
        if plots := list(getattr(file, "plots", lambda _: ())(study)):
            found.setdefault(file.TITLE, []).extend(plots)
    return found
