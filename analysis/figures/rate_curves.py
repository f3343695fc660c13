"""Losses against learning rates, from which the best rates are read."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from analysis.figures.layout import keep_outer_labels, legend_above, panels, star, swatch
from analysis.figures.palette import Look, looks
from analysis.figures.scales import log_scale, padded
from analysis.rates.cells import BestRate
from analysis.rates.fit import Rates

_N_NAMED = 6  # cells of a panel that are all named; of more, the first and the last
_FAR = 0.3  # nats above the lowest that the axis reaches at most
_SHOWN = 3  # rates of each cell that it has to reach


def draw_rate_curves(found: Rates) -> Figure:
    """A panel a model, a curve a cell: the loss less the lowest tried, against the peak rate.

    Stars are the minima of the parabolas, hollow if these have a warning. The axis ends at 0.3 nats
    if each cell has three rates below.
    """
    models = list(dict.fromkeys(cell.model for cell in found.cells))
    figure, axes = panels(len(models), height=3.0)
    top = _top(found.cells)
    stars = [c.loss_opt - min(c.losses) for c in found.cells if c.inside]
    low = max(min([0.0, *stars]), -_FAR)
    for axis, model in zip(axes, models, strict=True):
        cells = [cell for cell in found.cells if cell.model == model]
        order = [f"{i}" for i in range(len(cells))]  # names of cells (214M, 1.07B) do not sort
        shades = looks(order, pd.DataFrame({"series": order, "model": model}))
        ways = [*zip(cells, shades.values(), strict=True)]
        for cell, look in ways:
            _curve(axis, cell, look)
        log_scale(axis, "x", "lr", label="peak learning rate")
        axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
        axis.set_xlim(*padded([lr for cell in found.cells for lr in cell.lrs]))
        axis.set_ylim(low - 0.08 * top, 1.05 * top)
        axis.set_ylabel("loss above the lowest tried (nats/token)")
        named = ways if len(ways) <= _N_NAMED else [ways[0], ways[-1]]
        entries = [
            swatch(cell.name.removeprefix(model).strip(), look.colour, marker=look.marker, ls="-")
            for cell, look in named
        ]
        legend_above(axis, entries, model)
    keep_outer_labels(axes)
    return figure


def _top(cells: Sequence[BestRate]) -> float:
    above = [np.sort(cell.losses) - min(cell.losses) for cell in cells]
    least = max(float(losses[:_SHOWN].max()) for losses in above)
    most = max(float(losses.max()) for losses in above)
    return max(least, min(most, _FAR)) or _FAR


def _curve(axis: Axes, cell: BestRate, look: Look) -> None:
    lowest = min(cell.losses)
    above = np.array(cell.losses) - lowest
    axis.plot(cell.lrs, above, lw=1, ms=4, marker=look.marker, color=look.colour)
    if cell.inside:
        marker = star(look.colour, hollow=bool(cell.warnings))
        axis.plot(cell.lr_opt, cell.loss_opt - lowest, zorder=3, **marker)
