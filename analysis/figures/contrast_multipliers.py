"""Compute multipliers of lowest losses over compute: a line a layer, a bar an interval."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis.contrast.result import Contrasts, Difference
from analysis.figures.layout import (
    keep_outer_labels,
    legends_below,
    panels,
    point,
    swatch,
)
from analysis.figures.palette import Look, ink, looks, page
from analysis.figures.scales import LABELS, LogTicks, log_scale, padded
from analysis.figures.style import edge

_WIDEST = 3.0  # a bar is cut where it is so many times farther from the values
_ASIDE = 1.035  # times the next layer's budget: bars stand side by side


def draw_contrast_multipliers(
    found: Contrasts, marks: Mapping[str, tuple[float, float]] | None = None
) -> Figure:
    """A panel for each layer subtracted: the multiplier of its compute for another layer's loss, at
    each budget, joined by lines; 1 is that layer itself.

    Hollow where its frontier is continued beyond its budgets. marks: name -> (lowest, highest), a
    hatched stripe each, e.g. of another study. Raises ValueError where no multiplier exists.
    """
    every = [one for one in found.differences if np.isfinite(one.multiplier.value)]
    if not every:
        raise ValueError("draw_contrast_multipliers: no layer has a multiplier at a budget")
    baselines = list(dict.fromkeys(one.baseline for one in every))
    series = looks([*dict.fromkeys(one.layer for one in every), *baselines])
    figure, axes = panels(len(baselines), height=2.9)
    ends = _limits(every, marks or {})
    for axis, baseline in zip(axes, baselines, strict=True):
        own = [one for one in every if one.baseline == baseline]
        log_scale(axis, "x", "budget", label=LABELS["budget"])
        log_scale(axis, "y", "multiplier", label="compute multiplier")
        axis.set_ylim(*ends)
        axis.yaxis.set_major_locator(LogTicks(6, 0.1))
        axis.set_title(f"of {baseline}'s compute")
        for low, high in (marks or {}).values():
            axis.axhspan(low, high, **_hatched(), zorder=0)
        axis.axhline(1, color=ink(), lw=0.9, zorder=2)
        layers = list(dict.fromkeys(one.layer for one in own))
        for i, layer in enumerate(layers):
            aside = _ASIDE ** (i - (len(layers) - 1) / 2)
            _draw(axis, [one for one in own if one.layer == layer], series[layer], aside)
    keep_outer_labels(axes)
    keys = [
        swatch(one, series[one].colour, marker=series[one].marker, ls="-")
        for one in dict.fromkeys(one.layer for one in every)
    ]
    if any(one.beyond for one in every):
        keys.append(swatch("beyond its budgets", edge(), marker="o", mfc=page(), mec=edge()))
    bars = [swatch(f"{found.level:.0%} interval, in a layer's colour", edge(), ls="-")]
    legends_below(figure, keys, [*bars, *(Patch(label=name, **_hatched()) for name in marks or {})])
    return figure


def _hatched() -> dict[str, Any]:
    """Options of a stripe, which is no layer's interval."""
    return {"facecolor": "none", "edgecolor": edge(), "hatch": "////", "lw": 0, "alpha": 0.6}


def _draw(axis: Axes, own: list[Difference], look: Look, aside: float) -> None:
    own = sorted(own, key=lambda one: one.budgets)
    x = [aside * one.budgets[0] for one in own]
    low, high = axis.get_ylim()  # one without a bound leaves the axis
    bounds = np.clip([one.multiplier[1:] for one in own], low / 10, high * 10)
    axis.plot(x, [one.multiplier.value for one in own], color=look.colour, zorder=3)
    axis.vlines(x, *bounds.T, color=look.colour, lw=1.4, alpha=0.7, zorder=1)
    for at, one in zip(x, own, strict=True):
        axis.plot(at, one.multiplier.value, **point(look, hollow=one.beyond), zorder=4)


def _limits(
    every: list[Difference], marks: Mapping[str, tuple[float, float]]
) -> tuple[float, float]:
    """All multipliers and marks, and the bounds that are not far from them."""
    values = [
        1.0,
        *(one.multiplier.value for one in every),
        *(e for m in marks.values() for e in m),
    ]
    low, high = min(values) / _WIDEST, max(values) * _WIDEST
    bounds = [end for one in every for end in one.multiplier[1:] if low < end < high]
    return padded([*values, *bounds], 0.06)
