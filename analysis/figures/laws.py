"""How the optimum moves with compute: power laws of the sizes, and the loss's frontier."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import numbers
from analysis.figures.layout import (
    at_edge,
    band_swatch,
    beyond,
    faint,
    full,
    legend_above,
    legends_below,
    panels,
    point,
    swatch,
    swatches,
)
from analysis.figures.palette import Look, looks, page
from analysis.figures.scales import LABELS, log_scale, padded
from analysis.figures.style import DASHED, edge
from analysis.fitting.intervals import Estimate, Prediction
from analysis.fitting.power_law import FrontierFit, PowerLaw
from analysis.fitting.status import FitStatus
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit
from analysis.isoflop.fit import X_NAMES
from analysis.isoflop.laws import LOSS
from analysis.table.load import finished

_FEW_BANDS = 2  # as many may overlap, and their tints are still distinguishable
_FLOOR: Any = (0, (1, 1.5))


def draw_laws(fit: IsoFLOPFit, table: pd.DataFrame | None = None) -> Figure:
    """Minima against compute, a panel for each size and the loss, with the fitted laws.

    Points are the minima with their 95 % intervals where known, hollow if excluded from the law;
    lines the laws, dashed if it has a warning, with the 95 % interval of the law (Student's t).
    table: only to know which model a series is of. Raises ValueError if no law was fitted.
    """
    names = [name for name in (*X_NAMES, LOSS) if any(name in law.laws for law in fit.laws)]
    if not names:
        why = (
            "; ".join(dict.fromkeys(fit.unfitted.values()))
            or "fewer than two budgets have a minimum"
        )
        raise ValueError(f"draw_laws: the fit has no laws of compute: {why}")
    series = looks([c.model for c in fit.curves], table)
    n_columns = len(names) if len(names) <= 3 else 2 if len(names) == 4 else 3
    laws = sorted(fit.laws, key=lambda law: list(series).index(law.model))
    rows = 1 + (len(laws) + 1) // 2  # of the legend above a panel, 0.155 inches each
    figure, axes = panels(len(names), n_columns, height=2.4 + 0.155 * rows)
    some_beyond = False
    for axis, name in zip(axes, names, strict=True):
        log_scale(axis, "x", "budget")
        log_scale(axis, "y", name, label=LABELS[name] if name == LOSS else f"best {LABELS[name]}")
        axis.set_xlim(*padded([c.budget for c in fit.curves], 0.1))
        some_beyond |= _draw_minima(axis, fit, name, series)
        entries = []
        n_bands = sum(name in law.laws for law in laws)
        for law in laws:
            if name in law.laws:
                look = series[law.model]
                _draw_law(axis, law.laws[name], look, n_bands)
                text = _exponent_text(law.laws[name])
                entries.append(swatch(text, look.colour, marker=look.marker))
        floored = any(isinstance(law.laws.get(name), FrontierFit) for law in laws)
        what = "exponent of loss − E" if floored else "exponent"
        legend_above(axis, entries, f"{what} (95 % interval)")
    legends_below(figure, swatches(series), [*_marks(fit), *([beyond()] if some_beyond else [])])
    return figure


def draw_frontier(table: pd.DataFrame, fit: IsoFLOPFit) -> Figure:
    """Loss against compute: all finished runs, the best of each budget, and the fitted frontier.

    Frontiers are the laws of the fitted minima, with their 95 % interval, dashed if they
    have a warning; a thin line is the floor E where it is identifiable.
    """
    done = finished(table)
    done = done[done["budget"].notna()]
    done = done.assign(budget=done["budget"].astype(float), loss=done["loss"].astype(float))
    series = looks(done["series"], table)
    best = done.groupby(["series", "budget"], sort=True)["loss"].min()
    figure, (axis,) = panels(1, height=3.0)
    log_scale(axis, "x", "budget")
    log_scale(axis, "y", "loss")
    axis.set_xlim(*padded(done["budget"].tolist(), 0.08))
    laws = {law.model: law.laws[LOSS] for law in fit.laws if LOSS in law.laws}
    top = float(best.min())
    floors = {name: law.params["E"] for name, law in laws.items() if _has_floor(law, top)}
    low, high = padded(best.tolist(), 0.0)
    seen = done.loc[done["loss"] <= high * (high / low) ** 0.5, "loss"]
    axis.set_ylim(*padded([low, high, *seen, *floors.values()]))
    entries: list[Artist] = []
    for name, look in series.items():
        own = done[done["series"] == name]
        axis.plot(own["budget"], own["loss"], **faint(look.colour, look.marker, 3, 0.3), zorder=2)
        above = own["loss"] > axis.get_ylim()[1]
        at_edge(axis, own.loc[above, "budget"], axis.get_ylim()[1], "^", look.colour)
        at = best[name]
        axis.plot(at.index, at, **full(look.colour, look.marker), zorder=4)
        label = name
        if name in laws:
            law = laws[name]
            _draw_law(axis, law, look, len(laws))
            label = f"{name}\n{_exponent_text(law)}, {_floor_text(law, name in floors)}"
        if name in floors:
            axis.axhline(floors[name], color=look.colour, lw=0.9, ls=_FLOOR)
        entries.append(swatch(label, look.colour, marker=look.marker, ls="-"))
    marks = [
        swatch("best run", edge(), marker="o"),
        swatch("all runs", edge(), marker="o", ms=3, mew=0, alpha=0.4),
        *_line_marks(list(laws.values())),
    ]
    if floors:
        marks.append(swatch("floor E", edge(), ls=_FLOOR, lw=0.9))
    if (done["loss"] > axis.get_ylim()[1]).any():
        marks.append(beyond())
    title = "exponent of loss − E, and floor E (95 % intervals)"
    legends_below(figure, entries, marks, titles=[title if laws else ""])
    return figure


def _draw_law(axis: Axes, law: PowerLaw | FrontierFit, look: Look, n_bands: int = 1) -> None:
    """Law's line over the axis, and its 95 % interval, within the axis' limits.

    n_bands: how many intervals the axis has in all. Several tinted ones would be grey together, so
    they are outlines, tinted the less the more there are.
    """
    x = np.geomspace(*axis.get_xlim(), 200)
    with np.errstate(over="ignore"):  # of an interval that says nothing
        predicted: Prediction = law.predict(x)
    low, high = axis.get_ylim()
    certain = law.status is FitStatus.CONVERGED
    axis.plot(x, predicted.value, color=look.colour, ls="-" if certain else DASHED, zorder=3)
    # where wide, it would run off to infinity
    lower, upper = (
        np.clip(ends, low / 10, high * 10) for ends in (predicted.lower, predicted.upper)
    )
    tint = 0.16 if n_bands <= _FEW_BANDS else 0.12 / n_bands
    axis.fill_between(x, lower, upper, color=look.colour, alpha=tint, lw=0, zorder=1)
    if n_bands > _FEW_BANDS:
        for ends in (lower, upper):
            axis.plot(x, ends, color=look.colour, lw=0.6, alpha=0.75, zorder=2)


def _draw_minima(axis: Axes, fit: IsoFLOPFit, name: str, series: Mapping[str, Look]) -> bool:
    """Whether some are beyond the axis."""
    curves = [c for c in fit.curves if np.isfinite(_optimum(c, name))]
    low, high = padded([_optimum(c, name) for c in curves if c.inside], 0.0)
    near = [v for c in curves if low**2 / high < (v := _optimum(c, name)) < high**2 / low]
    axis.set_ylim(*padded([low, high, *near], 0.2))  # those excluded may be anywhere
    low, high = axis.get_ylim()
    ranks = list(series)
    for curve in curves:
        look = series[curve.model]
        left, right = axis.get_xlim()
        shift = 0.012 * (ranks.index(curve.model) - (len(ranks) - 1) / 2)  # or whiskers overlap
        x, y = curve.budget * (right / left) ** shift, _optimum(curve, name)
        if not low <= y <= high:
            at_edge(axis, [x], min(max(y, low), high), "^" if y > high else "v", look.colour)
            continue
        interval = _interval(curve, name)
        if interval is not None:
            ends = np.clip(interval, low / 10, high * 10)
            axis.plot([x, x], ends, color=look.colour, lw=1.0, zorder=4)
        axis.plot(x, y, **point(look, hollow=not curve.inside), zorder=5)
    return any(not low <= _optimum(c, name) <= high for c in curves)


def _optimum(curve: IsoFLOPCurve, name: str) -> float:
    if name == LOSS:
        return curve.loss_opt
    return curve.x_opt if name == curve.x_name else curve.at_optimum.get(name, float("nan"))


def _interval(curve: IsoFLOPCurve, name: str) -> tuple[float, float] | None:
    if name not in (LOSS, curve.x_name):
        return None
    low, high = curve.loss_interval if name == LOSS else curve.x_interval
    return None if np.isnan(low) or np.isnan(high) else (low, high)


def _exponent_text(law: PowerLaw | FrontierFit) -> str:
    """Exponent of C: a frontier's is -alpha."""
    if isinstance(law, FrontierFit):
        return _with_interval(-Estimate(-law.exponent, *law.bounds("alpha")))
    return _with_interval(Estimate(law.exponent, *law.bounds("exponent")))


def _with_interval(found: Estimate) -> str:
    text = numbers.with_interval(*found).replace("-", "−")
    return text if found.lower <= found.upper else f"{text} (no interval)"


def _floor_text(law: PowerLaw | FrontierFit, is_known: bool) -> str:
    if not isinstance(law, FrontierFit):
        return "E = 0 assumed"
    if not is_known:
        return "E not identifiable"
    return f"E {_with_interval(Estimate(law.floor, *law.bounds('E')))}"


def _has_floor(law: PowerLaw | FrontierFit, best: float) -> bool:
    """Whether there is a floor, identifiably below the best loss reached."""
    if not isinstance(law, FrontierFit) or law.status is FitStatus.BOUND_HIT:
        return False
    return law.bounds("E")[1] < best


def _marks(fit: IsoFLOPFit) -> list[Artist]:
    marks: list[Artist] = [swatch("minimum", edge(), marker="o")]
    if any(not c.inside and np.isfinite(c.x_opt) for c in fit.curves):
        hollow = {"mfc": page(), "mec": edge(), "mew": 1.1}
        marks.append(swatch("excluded from the law", edge(), marker="o", **hollow))
    if any(_interval(c, name) for c in fit.curves for name in (LOSS, c.x_name)):
        marks.append(swatch("its 95 % interval", edge(), marker="|", ms=9))
    return marks + _line_marks([law for laws in fit.laws for law in laws.laws.values()])


def _line_marks(laws: Sequence[PowerLaw | FrontierFit]) -> list[Artist]:
    marks: list[Artist] = []
    if any(law.status is not FitStatus.CONVERGED for law in laws):
        marks.append(swatch("law with a warning", edge(), ls=DASHED))
    if any(law.dof > 0 for law in laws):
        marks.append(band_swatch("95 % interval of the law"))
    return marks
