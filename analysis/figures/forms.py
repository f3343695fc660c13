"""Fitted against measured loss, by the form that was chosen."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from analysis.figures.layout import faint, panels
from analysis.figures.palette import ink
from analysis.figures.style import edge
from analysis.surfaces.form_compare import FormComparison

_MOST = 9  # panels


def draw_forms(found: Mapping[str, FormComparison]) -> Figure:
    """Panel a series: each run's loss in nats by the chosen form against the measured one.

    The line is where they are equal. Excluded runs are not drawn. The first nine series.
    """
    shown = dict(list(found.items())[:_MOST])
    figure, axes = panels(len(shown), min(len(shown), 3), height=2.8)
    for axis, (name, one) in zip(axes, shown.items(), strict=True):
        measured, fitted = np.array(one.measured), np.array(one.fitted)
        ends = float(measured.min()), float(measured.max())
        axis.plot(ends, ends, color=edge(), lw=0.9)
        axis.plot(measured, fitted, **faint(ink(), "o", 3, 0.5))
        axis.set_title(f"{name}: {one.chosen.form_name}")
        axis.set_xlabel("measured loss (nats)")
    axes[0].set_ylabel("fitted loss (nats)")
    return figure
