"""A figure of a report: what draws it, and what stands below it."""

from collections.abc import Callable
from dataclasses import dataclass

from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A figure to be drawn. make goes to another process: a function of a module, or a partial."""

    name: str
    caption: str
    make: Callable[[], Figure]
