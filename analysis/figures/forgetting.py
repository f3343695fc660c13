"""Forgetting against learning: a curve a way, a point a learning rate."""

import math
from typing import Any

import matplotlib.pyplot as plt
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.figures.layout import errors, legends_below, panels
from analysis.figures.style import edge
from analysis.forgetting.compare import Forgetting

_MARKERS = "osD^vPX*<>hd"
_LINES = ("-", "--", ":")  # one for every ten ways, whose colours come again
_SIDES = {"forgetting": "forgetting of earlier domains", "base": "loss on the base corpus"}


def draw_forgetting(found: Forgetting) -> Figure:
    """To the right learns more, upwards forgets more; the best way is lowest at equal learning.

    A side that no way has is left out; one stream alone is a hollow marker.
    """
    sides = [
        name
        for name in _SIDES
        if any(not math.isnan(getattr(kept, name).value) for kept in found.ways)
    ]
    figure, axes = panels(len(sides), None, height=3.6)
    ways = list(dict.fromkeys(kept.way for kept in found.ways))
    for axis, name in zip(axes, sides, strict=True):
        axis.axhline(0, color=edge(), lw=0.9)
        for i, way in enumerate(ways):
            points = [k for k in found.ways if k.way == way]
            points = [k for k in points if not math.isnan(getattr(k, name).value)]
            if not points:
                continue
            points.sort(key=lambda kept: kept.learning.value)
            x, y = ([getattr(k, n) for k in points] for n in ("learning", name))
            places = [e.value for e in x], [e.value for e in y]
            look: dict[str, Any] = {
                "marker": _MARKERS[i % len(_MARKERS)],
                "ms": 4,
                "color": f"C{i % 10}",
            }
            axis.errorbar(
                *places,
                xerr=errors(x),
                yerr=errors(y),
                lw=1,
                ls=_LINES[i // 10 % len(_LINES)],
                capsize=2,
                label=way,
                **look,
            )
            single = [k for k, kept in enumerate(points) if kept.n_runs < 2]
            at = ([values[k] for k in single] for values in places)
            axis.plot(*at, ls="", mfc=_inside(), zorder=3, **look)
        axis.set_xlabel("learning, bits/byte (more is better)")
        axis.set_ylabel(f"{_SIDES[name]}, bits/byte (lower is better)")
    handles = axes[-1].get_legend_handles_labels()[0]
    if any(kept.n_runs < 2 for kept in found.ways):
        one = Line2D([], [], ls="", marker="o", ms=4, mfc=_inside(), color=edge())
        one.set_label("hollow: one stream")
        handles.append(one)
    legends_below(figure, handles)
    return figure


def _inside() -> str:
    return str(plt.rcParams["axes.facecolor"])
