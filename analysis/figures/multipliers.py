"""Compute multipliers over compute and over loss, and at stated ones as a forest plot."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from analysis import numbers
from analysis.figures.layout import band_swatch, legends_below, panels, point, swatch
from analysis.figures.palette import Look, looks, page
from analysis.figures.scales import LABELS, LogTicks, log_scale, padded
from analysis.figures.style import edge, small
from analysis.multiplier.result import ComputeMultipliers, Multiplier

_WIDEST = 10.0  # a band is cut where it is so many times farther from the line of 1


def draw_multipliers(found: ComputeMultipliers) -> Figure:
    """Multiplier of each model against its compute and against the loss, with bands.

    Only where both laws have runs; the line at 1 is the baseline. Raises ValueError if there is no
    such compute for any model.
    """
    curves = {m: (found.over_compute(m), found.over_loss(m)) for m in found.models}
    curves = {m: both for m, both in curves.items() if both[0]}
    if not curves:
        raise ValueError(
            "draw_multipliers: no model has losses that "
            f"{found.baseline} reaches within its budgets"
        )
    series = looks([found.baseline, *found.models])
    figure, (left, right) = panels(2, height=2.8)
    log_scale(left, "x", "budget", label="model's training compute (FLOPs)")
    right.set_xlabel(LABELS["loss"])
    for i, axis in enumerate((left, right)):
        log_scale(axis, "y", "multiplier", label=f"compute multiplier over {found.baseline}")
        axis.set_ylim(*_limits([one for both in curves.values() for one in both[i]]))
        for model, both in curves.items():
            _draw_curve(axis, both[i], series[model], of_loss=axis is right)
        axis.axhline(1, color=edge(), lw=0.9, zorder=2)
    right.invert_xaxis()  # as compute grows to the right, loss falls
    keys = [swatch(m, series[m].colour, ls="-") for m in curves]
    legends_below(figure, keys, [band_swatch(f"{found.level:.0%} interval")])
    return figure


def _limits(shown: Sequence[Multiplier]) -> tuple[float, float]:
    """All multipliers, the line at 1, and bounds that are not far from them."""
    values = [1.0, *(one.value for one in shown)]
    low, high = padded(values, 0.3)
    bounds = [end for one in shown for end in (one.lower, one.upper)]
    return padded([*values, *(e for e in bounds if low / _WIDEST < e < high * _WIDEST)])


def _draw_curve(axis: Axes, curve: Sequence[Multiplier], look: Look, *, of_loss: bool) -> None:
    x = [one.loss if of_loss else one.compute for one in curve]
    low, high = axis.get_ylim()
    lower, upper = (
        np.clip([getattr(one, name) for one in curve], low / 10, high * 10)
        for name in ("lower", "upper")
    )
    axis.plot(x, [one.value for one in curve], color=look.colour, zorder=3)
    axis.fill_between(x, lower, upper, color=look.colour, alpha=0.12, lw=0, zorder=1)


def draw_forest(
    found: ComputeMultipliers, budgets: Sequence[float] = (), losses: Sequence[float] = ()
) -> Figure:
    """A panel for each stated compute and loss, a row a model: the multiplier and its interval.

    Hollow where a law is continued beyond its budgets; the line at 1 is the baseline. By default at
    found.some_budgets().
    """
    budgets = budgets if len(budgets) or len(losses) else found.some_budgets()
    stated = [
        *((f"at {numbers.flops_mathtext(c)} FLOPs", found.at(budgets=[c])) for c in budgets),
        *((f"at {v:.4g} nats/token", found.at(losses=[v])) for v in losses),
    ]
    order = [one.model for one in sorted(stated[0][1], key=lambda one: one.value)]
    series = looks([found.baseline, *found.models])
    figure, axes = panels(len(stated), height=0.9 + 0.26 * len(order))
    for i, (axis, (title, rows)) in enumerate(zip(axes, stated, strict=True)):
        axis.set_title(title)
        _forest_axis(axis, rows, order, named=i == 0)
        for one in rows:
            _draw_row(axis, one, order.index(one.model), series[one.model])
        axis.axvline(1, color=edge(), lw=0.9, zorder=2)
    shown = [one for _, rows in stated for one in rows]
    marks = [
        swatch("multiplier", edge(), marker="o"),
        swatch(f"{found.level:.0%} interval", edge(), ls="-"),
    ]
    if any(one.extrapolated for one in shown):
        marks.append(swatch("beyond the budgets", edge(), marker="o", mfc=page(), mec=edge()))
    legends_below(figure, marks)
    return figure


def _forest_axis(
    axis: Axes, rows: Sequence[Multiplier], order: Sequence[str], *, named: bool
) -> None:
    log_scale(axis, "x", "multiplier", label="compute multiplier")
    axis.set_xlim(*_limits(rows))
    axis.xaxis.set_major_locator(LogTicks(5, 0.12))
    axis.set_ylim(-0.6, len(order) - 0.4)
    axis.set_yticks(range(len(order)), order if named else [""] * len(order))
    axis.set_ylabel("model" if named else "")
    axis.grid(axis="y", visible=False)
    axis.yaxis.set_minor_formatter(NullFormatter())


def _draw_row(axis: Axes, one: Multiplier, y: int, look: Look) -> None:
    low, high = axis.get_xlim()
    if np.isfinite(one.value):
        ends = np.clip([one.lower, one.upper], low, high)
        axis.plot(ends, [y, y], color=look.colour, lw=1.2, zorder=3)
        axis.plot(one.value, y, **point(look, hollow=one.extrapolated), zorder=4)
    axis.annotate(
        numbers.with_interval(*one.estimate),
        (1.02, y),
        xycoords=("axes fraction", "data"),
        va="center",
        fontsize=small(),
        annotation_clip=False,
    )
