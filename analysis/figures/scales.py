"""Quantities on axes: their names with units, and ticks that stay few, round and readable."""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.text import Text as MplText
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    Locator,
    LogLocator,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)

from analysis import numbers
from analysis.table.units import PER_TOKEN, in_unit

LABELS = {
    "n_params": "total parameters",
    "n_active_params": "active parameters",
    "n_non_embedding_params": "non-embedding parameters",
    "backbone_params": "parameters without experts",
    "n_tokens": "training tokens",
    "budget": "training compute (FLOPs)",
    "loss": "held-out loss (nats/token)",
    "perplexity": "perplexity per token",
    "n_experts": "number of experts",
    "seconds": "training time (s)",
    "n_heads": "retrieval heads h",
    "usage": "experts used (%)",
    "unevenness": "unevenness (nats)",
    "lr": "best peak learning rate",
    "d_model": "width d_model",
    "n_layers": "layers",
    "n_steps": "training steps",
    "batch_tokens": "tokens per batch",
}
_SUBS = ((1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7))


class LogTicks(Locator):
    """Most ticks up to n_most, round: of whole decades, 1-3, 1-2-5, or evenly spaced.

    apart: the least distance between two that are no whole decades, as a share of the axis.
    """

    def __init__(self, n_most: int, apart: float) -> None:
        self.n_most = n_most
        self.apart = apart

    def __call__(self) -> list[float]:
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        low, high = sorted((float(vmin), float(vmax)))
        if not 0 < low < high < np.inf:
            return []
        return list(_ticks(low, high, self.n_most, self.apart))


@lru_cache(maxsize=64)  # each layout and each draw of an axis asks for the same
def _ticks(low: float, high: float, n_most: int, apart: float) -> tuple[float, ...]:
    first, last = int(np.floor(np.log10(low))), int(np.ceil(np.log10(high)))
    decades = range(first, last + 1)
    choices = [[10.0**k for k in decades if k % stride == 0] for stride in (5, 4, 3, 2, 1)]
    n_whole = len(choices)
    choices += [[s * 10.0**k for k in decades for s in subs] for subs in _SUBS]
    if high / low < 20:
        for n in range(2, 2 * n_most):
            even = MaxNLocator(n, steps=[1, 2, 2.5, 5, 10], min_n_ticks=1)
            choices.append([float(v) for v in even.tick_values(low, high)])
    found: list[float] = []
    for i, values in enumerate(choices):
        seen = [v for v in values if low * (1 - 1e-9) <= v <= high * (1 + 1e-9)]
        least = apart * np.log(high / low) * (0.6 if i < n_whole else 1.0)
        if len(seen) > 1 and np.diff(np.log(seen)).min() < least:
            continue
        if len(found) < len(seen) <= n_most:
            found = seen
    return tuple(found)


class MinorTicks(LogLocator):
    """Two to nine times the decades, within the view alone.

    matplotlib's own are a decade beyond it too, and each is an artist that a layout and a draw make
    and measure, though none is seen.
    """

    def __init__(self) -> None:
        super().__init__(subs=np.arange(2, 10).tolist(), numticks=100)

    def tick_values(self, vmin: float, vmax: float) -> Any:
        ticks = np.asarray(super().tick_values(vmin, vmax))
        low, high = sorted((vmin, vmax))
        return ticks[(ticks >= low * (1 - 1e-9)) & (ticks <= high * (1 + 1e-9))]


def log_scale(axis: Axes, which: str, name: str, *, label: str | None = None) -> None:
    """A log axis ("x" or "y") of a quantity of LABELS: its label, few ticks, no minor labels."""
    text = label or LABELS[name]
    if which == "x":
        axis.set_xscale("log")
        axis.set_xlabel(with_note(text, "log scale"))
    else:
        axis.set_yscale("log")
        axis.set_ylabel(with_note(text, "log"))
    form = {
        "budget": numbers.flops_mathtext,
        "loss": numbers.tick,
        "perplexity": numbers.tick,
    }.get(name, lambda value: numbers.count(value, 5))
    apart = 0.1 if which == "y" else 0.26 if name == "budget" else 0.15  # by the labels' width
    one: Axis = axis.xaxis if which == "x" else axis.yaxis
    one.set_major_locator(LogTicks(5 if which == "x" else 6, apart))
    one.set_major_formatter(FuncFormatter(lambda value, _: form(value)))
    one.set_minor_locator(MinorTicks())
    one.set_minor_formatter(NullFormatter())


def relabel(figure: Figure, unit: str) -> None:
    """In place: labels of losses per token become those of losses in this unit, e.g. nats/byte."""
    if unit == PER_TOKEN:  # to look at a text makes all ticks, for nothing
        return
    for text in figure.findobj(MplText):
        text.set_text(in_unit(text.get_text(), unit))


def with_note(label: str, note: str) -> str:
    """compute (FLOPs) and log: compute (FLOPs, log)."""
    return f"{label[:-1]}, {note})" if label.endswith(")") else f"{label} ({note})"


def experts_scale(
    axis: Axes, name: str, values: Sequence[float], n_most: int = 6, room: float = 0.06
) -> None:
    """A log2 x axis of a count, with ticks at the values there are, every other if too many.

    room: to the right of the highest, as a share of the range.
    """
    axis.set_xscale("log", base=2)
    axis.set_xlabel(with_note(LABELS[name], "log scale"))
    kept = thinned(sorted(set(values)), n_most)
    axis.xaxis.set_major_locator(FixedLocator(kept))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: numbers.experts(value)))
    axis.xaxis.set_minor_locator(NullLocator())
    low, high = min(values), max(values)
    whole = high / low if high > low else 100.0
    axis.set_xlim(low / whole**0.06, high * whole**room)


def thinned(values: Sequence[float], n_most: int) -> list[float]:
    """Those of positive values, in order, that are spread on a log scale: at most n_most."""
    if len(values) <= n_most:
        return list(values)
    least = np.log(values[-1] / values[0]) / n_most
    kept: list[float] = []
    for value in values:
        if not kept or np.log(value / kept[-1]) >= least * (1 - 1e-9):
            kept.append(value)
    return kept


def padded(values: Sequence[float], share: float = 0.06) -> tuple[float, float]:
    """Limits of a log axis about positive values; those not finite don't count."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known) & (known > 0)]
    if not len(known):
        return 1.0, 10.0
    low, high = float(known.min()), float(known.max())
    spare = max((high / low) ** share, 1.0005)
    return low / spare, high * spare
