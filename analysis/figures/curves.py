"""Loss curves with the laws fitted to them: a panel a series."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from analysis.curves.compare import Curves
from analysis.curves.fit import CurveFit, find_start
from analysis.curves.history import History
from analysis.curves.laws import STEPS
from analysis.figures.layout import legends_below, panels
from analysis.figures.scales import log_scale
from analysis.figures.style import LINES

_N_POINTS = 80


def draw_curves(found: Curves) -> Figure:
    """Points are means of neighbouring rows, a colour a run; lines are the laws of all runs."""
    series = list(dict.fromkeys(fit.series for fit in found.fits))
    figure, axes = panels(len(series), None, height=3.4)
    handles: dict[str, Line2D] = {}
    names = list(dict.fromkeys(one.run for one in found.histories))
    for axis, name in zip(axes, series, strict=True):
        runs = [one for one in found.histories if one.series == name]
        fits = [f for f in found.fits if f.series == name and f.form_name != STEPS.name]
        start = find_start(runs, found.skip)
        for run in (one for one in runs if (one.step > start).any()):
            colour = f"C{names.index(run.run) % 10}"
            shown = run.pooled(start, _N_POINTS)
            (line,) = axis.plot(shown.step, shown.loss, ".", ms=2.5, color=colour, alpha=0.6)
            handles.setdefault(run.run, line)
            for fit, style in zip(fits, LINES, strict=False):
                law = axis.plot(*_line(fit, run, start), color=colour, lw=1, ls=style)[0]
                handles.setdefault(fit.title.partition(" (")[0], law)
        axis.set_title(name)
        axis.set_ylabel("training loss, nats/token")
        log_scale(axis, "x", "n_steps", label="step")
    for label, handle in handles.items():
        handle.set_label(label)
    legends_below(figure, list(handles.values()))
    return figure


def _line(fit: CurveFit, run: History, start: float) -> Sequence[np.ndarray]:
    kept = run.step > start
    return run.step[kept], fit.predict(run).value[kept]
