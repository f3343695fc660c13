"""Forgetting against learning: a curve a way, a point a learning rate."""

import math

from matplotlib.figure import Figure

from analysis.figures.layout import errors, legends_below, panels
from analysis.figures.style import edge
from analysis.forgetting.compare import Forgetting

_MARKERS = "osD^vPX*<>hd"
_LINES = ("-", "--", ":")  # one for every ten ways, whose colours come again
_SIDES = {"forgetting": "forgetting of earlier domains", "base": "loss on the base corpus"}


def draw_forgetting(found: Forgetting) -> Figure:
    """To the right learns more, upwards forgets more; the best way is lowest at equal learning."""
    figure, axes = panels(2, None, height=3.6)
    ways = list(dict.fromkeys(kept.way for kept in found.ways))
    for axis, (name, label) in zip(axes, _SIDES.items(), strict=True):
        axis.axhline(0, color=edge(), lw=0.9)
        for i, way in enumerate(ways):
            points = [k for k in found.ways if k.way == way]
            points = [k for k in points if not math.isnan(getattr(k, name).value)]
            if not points:
                continue
            points.sort(key=lambda kept: kept.learning.value)
            x, y = ([getattr(k, n) for k in points] for n in ("learning", name))
            axis.errorbar(
                [e.value for e in x],
                [e.value for e in y],
                xerr=errors(x),
                yerr=errors(y),
                marker=_MARKERS[i % len(_MARKERS)],
                ms=4,
                lw=1,
                ls=_LINES[i // 10 % len(_LINES)],
                capsize=2,
                color=f"C{i % 10}",
                label=way,
            )
        axis.set_xlabel("learning, bits/byte")
        axis.set_ylabel(f"{label}, bits/byte")
    legends_below(figure, axes[-1].get_legend_handles_labels()[0])
    return figure
