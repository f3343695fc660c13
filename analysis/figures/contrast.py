"""Differences of lowest losses as forest plots: by budget, and by parts of the held-out text."""

from collections.abc import Sequence

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import numbers
from analysis.contrast.parts import ContrastsByPart
from analysis.contrast.result import Contrasts, Difference
from analysis.figures.layout import legends_below, panels, point, swatch
from analysis.figures.palette import Look, looks
from analysis.figures.style import edge

_ROW = 0.2  # inches
_MARKERS = ("o", "s", "D", "^", "v", "P", "X")  # of budgets, where layers have the colours
_WIDEST = 4.0  # an interval is cut where it is so many times farther from 0 than the values


def draw_contrasts(found: Contrasts) -> Figure:
    """A panel for each layer subtracted, a row a budget and layer: the difference and its interval.

    Hollow are those that Holm's correction is not for, if it is for some.
    """
    every = found.differences
    baselines = list(dict.fromkeys(one.baseline for one in every))
    series = looks([*dict.fromkeys(one.layer for one in every), *baselines])
    rows = sorted(dict.fromkeys((one.budgets, one.layer) for one in every), reverse=True)
    names = [f"{layer}, {', '.join(map(numbers.flops, budgets))}" for budgets, layer in rows]
    figure, axes = panels(len(baselines), height=0.9 + _ROW * len(rows))
    some = any(one.primary for one in every)
    for i, (axis, baseline) in enumerate(zip(axes, baselines, strict=True)):
        axis.set_title(f"minus {baseline}")
        _forest_axis(axis, every, names, "layer, FLOPs" if i == 0 else None)
        for one in every:
            if one.baseline == baseline:
                y = rows.index((one.budgets, one.layer))
                _draw(axis, one, y, series[one.layer], hollow=some and not one.primary)
    _legend(figure, found.level)
    return figure


def draw_parts(found: ContrastsByPart) -> Figure:
    """A panel for each two layers, a row a part, a marker a budget: differences, intervals."""
    rows = found.rows
    pairs = list(dict.fromkeys((r.difference.layer, r.difference.baseline) for r in rows))
    budgets = list(dict.fromkeys(row.difference.budgets for row in rows))
    parts = list(dict.fromkeys(row.part for row in rows))[::-1]
    series = looks([name for pair in pairs for name in pair])
    step = 0.7 / len(budgets)
    figure, axes = panels(len(pairs), height=0.9 + _ROW * len(parts) * max(1.0, 0.6 * len(budgets)))
    for i, (axis, (layer, baseline)) in enumerate(zip(axes, pairs, strict=True)):
        axis.set_title(f"{layer} minus {baseline}")
        every = [row.difference for row in rows]
        _forest_axis(axis, every, parts, found.by if i == 0 else None)
        for row in rows:
            one = row.difference
            if (one.layer, one.baseline) == (layer, baseline):
                k = budgets.index(one.budgets)
                y = parts.index(row.part) + step * ((len(budgets) - 1) / 2 - k)
                look = Look(colour=series[layer].colour, marker=_MARKERS[k % len(_MARKERS)])
                _draw(axis, one, y, look, hollow=not row.has_documents)
    marks = [
        swatch(", ".join(map(numbers.flops, at)), edge(), marker=_MARKERS[k % len(_MARKERS)])
        for k, at in enumerate(budgets)
    ]
    _legend(figure, found.whole.level, marks)
    return figure


def _forest_axis(
    axis: Axes, every: Sequence[Difference], names: Sequence[str], label: str | None
) -> None:
    """label: of the names, which stand where there is one."""
    values = [one.value.value for one in every]
    far = _WIDEST * max(map(abs, values))
    ends = np.clip([end for one in every for end in one.value[1:]], -far, far)
    low, high = min(0.0, *values, *ends), max(0.0, *values, *ends)
    spare = 0.06 * (high - low) + 1e-6
    axis.set_xlim(low - spare, high + spare)
    axis.set_xlabel("difference (nats/token)")
    axis.set_ylim(-0.7, len(names) - 0.3)
    axis.set_yticks(range(len(names)), names if label else [""] * len(names))
    axis.set_ylabel(label or "")
    axis.grid(axis="y", visible=False)
    axis.axvline(0, color=edge(), lw=0.9, zorder=2)


def _draw(axis: Axes, one: Difference, y: float, look: Look, *, hollow: bool) -> None:
    ends = np.clip(one.value[1:], *axis.get_xlim())
    axis.plot(ends, [y, y], color=look.colour, lw=1.2, zorder=3)
    axis.plot(one.value.value, y, **point(look, hollow=hollow), zorder=4)


def _legend(figure: Figure, level: float, marks: Sequence[Artist] = ()) -> None:
    own = marks or [swatch("difference", edge(), marker="o")]
    legends_below(figure, [*own, swatch(f"{level:.0%} interval", edge(), ls="-")])
