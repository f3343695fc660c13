"""Best learning rates against what they go with most, and their laws."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis import numbers
from analysis.figures.layout import legends_below, panels, swatch, swatches
from analysis.figures.palette import Look, looks
from analysis.figures.scales import LABELS, log_scale, padded
from analysis.figures.style import DASHED, edge, small
from analysis.rates.cells import BestRate
from analysis.rates.fit import Rates
from analysis.rates.law import RateLaw


def draw_rates(found: Rates) -> Figure:
    """A point and its 95 % interval a cell, a colour a model; hollow: excluded from the
    laws; faint: the interval is unbounded. Models at one place stand side by side.

    The abscissa is the column over whose range the law changes the rate most. Where the law has
    others, points and lines are at their geometric means, by its exponents. A model's line is of
    its own law, or else of the law that models share.
    """
    main = found.forms[-1].law if found.forms else None
    x = _strongest(main, found)
    others = {} if main is None else {n: _middle(found, n) for n in main.columns if n != x}
    figure, (axis,) = panels(1, height=3.2)
    series = looks(cell.model for cell in found.cells)
    places = _places(found, x)
    for cell, place in zip(found.cells, places, strict=True):
        _point(axis, cell, place, _moved(cell, main, others), series[cell.model])
    for model, look in series.items():
        law = next((one.law for one in found.forms if model in one.models), None)
        if law is not None:
            _line(axis, law, model, x, others, look)
    label = LABELS.get(x, x)
    log_scale(axis, "x", x, label=label)
    log_scale(axis, "y", "lr")
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    axis.set_xlim(*padded(places, 0.08))
    ends = [end for cell in found.cells for end in _ends(cell, _moved(cell, main, others))]
    axis.set_ylim(*padded(ends, 0.1))
    if others:
        at = ", ".join(f"{name} = {numbers.count(value)}" for name, value in others.items())
        axis.set_title(f"at {at}, by the law", fontsize=small())
    marks = [swatch("excluded from the laws", edge(), marker="o", mfc="none")]
    legends_below(figure, swatches(series, ls=""), marks if found.left_out else [])
    return figure


def _strongest(law: RateLaw | None, found: Rates) -> str:
    """Law's strongest variable, or else the first column that varies."""
    if law is not None and law.columns:
        effects = {
            name: abs(law.exponents[name]) * np.log(law.ranges[name][1] / law.ranges[name][0])
            for name in law.columns
        }
        return max(effects, key=lambda name: effects[name])
    spread = {n: {c.at[n] for c in found.cells if np.isfinite(c.at[n])} for n in found.columns}
    return next((n for n in found.columns if len(spread[n]) > 1), found.columns[0])


def _middle(found: Rates, name: str) -> float:
    values = np.array([cell.at[name] for cell in found.cells if cell.inside])
    return float(np.exp(np.log(values).mean()))


def _places(found: Rates, x: str) -> list[float]:
    """Each cell's place on the abscissa. Where models share one, each is moved by a fiftieth of the
    range from the one before.
    """
    models = list(dict.fromkeys(cell.model for cell in found.cells))
    exact = [cell.at[x] for cell in found.cells]
    if len({(cell.at[x], cell.model) for cell in found.cells}) == len(set(exact)):
        return exact
    step = np.log(max(exact) / min(exact)) / 50 or 0.01
    middle = (len(models) - 1) / 2
    return [c.at[x] * float(np.exp(step * (models.index(c.model) - middle))) for c in found.cells]


def _moved(cell: BestRate, law: RateLaw | None, others: Mapping[str, float]) -> float:
    """Factor to the rate that the law gives at the others' middles."""
    factor = 1.0
    for name, value in others.items():
        assert law is not None
        factor *= (value / cell.at[name]) ** law.exponents[name]
    return factor


def _rate(cell: BestRate) -> float:
    return cell.lr_opt if cell.inside else cell.lr_tried


def _ends(cell: BestRate, factor: float) -> list[float]:
    """Axis shows a cell's rate, and a bounded interval as far as rates were tried."""
    low, high = cell.lr_interval
    bounded = cell.inside and 0 < low <= high < np.inf
    within = [max(low, min(cell.lrs)), min(high, max(cell.lrs))] if bounded else []
    return [factor * rate for rate in (_rate(cell), *within)]


def _point(axis: Axes, cell: BestRate, x: float, factor: float, look: Look) -> None:
    y = _rate(cell) * factor
    fill: dict[str, Any] = {} if cell.inside else {"mfc": "none"}
    axis.plot(x, y, ls="", ms=4.5, marker=look.marker, color=look.colour, **fill)
    low, high = (end * factor for end in cell.lr_interval)
    if cell.inside and low <= y <= high:  # an end at 0 or infinity is beyond the axis
        ends = [max(low, y / 1e3), min(high, y * 1e3)]
        faint = 0.6 if low > 0 and high < np.inf else 0.15
        axis.plot([x] * 2, ends, lw=0.9, alpha=faint, color=look.colour)


def _line(
    axis: Axes, law: RateLaw, model: str, x: str, others: Mapping[str, float], look: Look
) -> None:
    """Dashed where the law has warnings. Of a law in further columns, at their means."""
    if x not in law.columns or any(name not in (x, *others) for name in law.columns):
        return
    grid = np.geomspace(*law.ranges[x], 50)
    at = {name: np.full(50, value) for name, value in others.items()}
    line = law.predict({**at, x: grid}, model)
    dashes = DASHED if law.warnings else "-"
    axis.plot(grid, line.value, color=look.colour, ls=dashes)
    axis.fill_between(grid, line.lower, line.upper, color=look.colour, alpha=0.15, lw=0)
