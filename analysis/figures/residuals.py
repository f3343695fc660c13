"""Residuals of a law, against each variable that they should not depend on."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure

from analysis.figures.layout import (
    at_edge,
    band_swatch,
    beyond,
    faint,
    keep_outer_labels,
    legends_below,
    panels,
    swatches,
)
from analysis.figures.palette import looks
from analysis.figures.scales import experts_scale, log_scale, padded
from analysis.figures.style import edge

_VARIABLES = ("n_params", "n_active_params", "n_tokens", "budget", "n_experts")


def draw_residuals(residuals: pd.DataFrame) -> Figure:
    """ln(loss / fitted loss) against each variable that varies, a panel each, a colour a series.

    residuals: as residuals_of returns them. The band is one standard deviation of all of them about
    zero. Raises ValueError without residual, or if nothing varies.
    """
    if "residual" not in residuals or residuals["residual"].isna().all():
        raise ValueError("draw_residuals needs residual = ln(measured loss) - ln(fitted loss)")
    kept = residuals[residuals["residual"].notna()]
    values = 100 * kept["residual"].to_numpy(dtype=np.float64)
    names = _varying(kept)
    if not names:
        raise ValueError(f"draw_residuals: none of {', '.join(_VARIABLES)} varies")
    labels = kept["series"].astype(str)
    shown = looks(labels, kept)
    sd = float(values.std(ddof=1)) if len(values) > 1 else 0.0
    usual = 8 * float(np.median(np.abs(values)))  # a few far off should not hide the rest
    top = 1.12 * max(min(float(np.abs(values).max()), max(usual, 2 * sd)), sd, 1e-3)
    n_columns = None if len(names) <= 4 else 3
    figure, axes = panels(len(names), n_columns, height=2.4)
    for axis, name in zip(axes, names, strict=True):
        x = kept[name].astype("float64")
        known = x[x.notna()]
        if name == "n_experts":
            experts_scale(axis, name, known.tolist())
        else:
            log_scale(axis, "x", name)
            axis.set_xlim(*padded(known.tolist()))
        axis.axhspan(-sd, sd, color=edge(), alpha=0.18, lw=0)
        axis.axhline(0, color=edge(), lw=0.9)
        for label, look in shown.items():
            own = (labels == label).to_numpy()
            axis.plot(x[own], values[own], **faint(look.colour, look.marker, 4, 0.75))
            for sign, marker in ((1, "^"), (-1, "v")):
                at_edge(axis, x[own][sign * values[own] > top], sign * top, marker, look.colour)
        axis.set_ylim(-top, top)
        axis.set_ylabel("100 ln(loss / fit) (≈ %)")
    keep_outer_labels(axes, x=False)
    marks: list[Artist] = [band_swatch(f"± 1 s.d. = {sd:.2g} %")]
    if (np.abs(values) > top).any():
        marks.append(beyond())
    legends_below(figure, swatches(shown, ls=""), marks)
    return figure


def _varying(frame: pd.DataFrame) -> list[str]:
    """Variables of several values; one of two that are the same only once."""
    names: list[str] = []
    for name in _VARIABLES:
        if name not in frame or frame[name].nunique() < 2:
            continue
        values = frame[name].astype("float64")
        if not any(np.allclose(values, frame[n].astype("float64"), equal_nan=True) for n in names):
            names.append(name)
    return names
