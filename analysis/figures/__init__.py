"""Figures take tables and results and return a Figure; they neither fit nor read files.

with analysis.figures.style(dark=True):
    analysis.figures.draw_isoflop(table, fit).savefig("isoflop.png")

Each file here is found by itself: its draw_* are names of this package, and what its plots(study)
gives is in reports, in a section that is called as its TITLE. A file is loaded when it is used.
"""

from collections.abc import Callable
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from types import ModuleType
from typing import TYPE_CHECKING

from matplotlib.figure import Figure

from analysis.figures.scales import relabel
from analysis.figures.style import style
from experiments.system.page.colours import MODEL_COLOURS

if TYPE_CHECKING:
    from analysis.figures.plot import Plot
    from analysis.study import Study

__all__ = ["MODEL_COLOURS", "list_plots", "relabel", "style"]


def __getattr__(name: str) -> Callable[..., Figure]:
    """A drawing of one of the files."""
    if name.startswith("draw_") and name in _drawings():
        return _drawings()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_drawings()]


def list_plots(study: "Study") -> dict[str, list["Plot"]]:
    """Plots that files have of a study, by the title of their section."""
    found: dict[str, list[Plot]] = {}
    for file in _files():
        if plots := list(getattr(file, "plots", lambda _: ())(study)):
            found.setdefault(file.TITLE, []).extend(plots)
    return found


@cache
def _files() -> list[ModuleType]:
    return [import_module(f"{__name__}.{file.name}") for file in iter_modules(__path__)]


@cache
def _drawings() -> dict[str, Callable[..., Figure]]:
    return {
        name: draw
        for file in _files()
        for name, draw in vars(file).items()
        if name.startswith("draw_") and draw.__module__ == file.__name__
    }
