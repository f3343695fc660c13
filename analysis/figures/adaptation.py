"""Gains of adapting on a domain, against its cost on other text."""

from matplotlib.figure import Figure

from analysis.adaptation import Adaptation
from analysis.figures.layout import errors, panels
from analysis.figures.style import edge

_MARKERS = "osD^vPX*"


def draw_adaptation(found: Adaptation) -> Figure:
    """A point a way, with its intervals: to the right gains, upwards forgets."""
    figure, (axis,) = panels(1, None, height=3.2)
    axis.axhline(0, color=edge(), lw=0.9)
    for i, way in enumerate(found.ways):
        axis.errorbar(
            [way.gain.value],
            [way.change.value],
            xerr=errors([way.gain]),
            yerr=errors([way.change]),
            fmt=_MARKERS[i % len(_MARKERS)],
            ms=5,
            capsize=2,
            label=way.way,
        )
    axis.set_xlabel("gain on the domain, nats/token")
    axis.set_ylabel(f"change on {found.general}, nats/token")
    axis.legend(frameon=False, fontsize="small")
    return figure
