"""Parametric surface as iso-loss contours (Hoffmann 2022, arXiv:2203.15556, Fig. 4)."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis.figures.layout import band_swatch, legends_below, panels, swatch
from analysis.figures.palette import ink, legible
from analysis.figures.scales import LABELS, log_scale, padded
from analysis.figures.style import DASHED, edge, small
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitStatus
from analysis.parametric import ParametricFit
from analysis.surfaces.optimum import FLOPS_PER_PARAM_TOKEN
from analysis.table.load import finished

_OPTIMAL = "#d55e00"  # no model's
_CMAP = "viridis"


def draw_contours(
    fit: ParametricFit,
    table: pd.DataFrame,
    *,
    size: str = "n_params",
    flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
) -> Figure:
    """Iso-loss lines of the surface over size and tokens, the runs, and the compute-optimal line.

    Points are the finished runs, coloured by their loss. The optimal line, dashed if the fit
    has a warning, has its 95 % interval along the lines of equal compute,
    C = flops_per_param_token N D.
    Thin lines join the runs of a budget. table: a checked one, or a frame of n_tokens, loss and
    size; size: what the fit was given as N. Raises ValueError naming a column that is missing.
    """
    runs = finished(table) if "status" in table else table
    absent = [n for n in (size, "n_tokens", "loss") if n not in runs or runs[n].isna().all()]
    if absent:
        raise ValueError(f"draw_contours needs {' and '.join(absent)}: the table has none")
    runs = runs[runs[[size, "n_tokens", "loss"]].notna().all(axis=1)]
    N, D, L = (runs[n].to_numpy(dtype=np.float64) for n in (size, "n_tokens", "loss"))
    figure, (axis,) = panels(1, height=3.1)
    log_scale(axis, "x", size if size in LABELS else "n_params", label=LABELS.get(size, size))
    log_scale(axis, "y", "n_tokens")
    axis.set_xlim(*padded(N.tolist(), 0.08))
    axis.set_ylim(*padded(D.tolist(), 0.08))
    axis.grid(visible=False)
    lines = _draw_budgets(axis, runs, size)
    _draw_lines(axis, fit, L)
    has_interval = _draw_optimum(axis, fit, flops_per_param_token)
    top = float(np.quantile(L, 0.95))  # one bad run should not take all the colours
    points = axis.scatter(
        *(N, D), c=L, vmax=top, cmap=_CMAP, s=22, edgecolors=ink(), linewidths=0.5, zorder=5
    )
    bar = figure.colorbar(
        points,
        ax=axis,
        location="bottom",
        pad=0.03,
        aspect=35,
        extend="max" if top < L.max() else "neither",
    )
    bar.set_label(LABELS["loss"])
    bar.outline.set_visible(False)
    certain = fit.status is FitStatus.CONVERGED
    marks: list[Artist] = [
        swatch("run", edge(), marker="o", mfc="none", mec=ink()),
        swatch("equal loss", edge(), ls="-", lw=0.9),
        swatch(
            "optimal" if certain else f"optimal ({fit.status})",
            legible(_OPTIMAL),
            ls="-" if certain else DASHED,
            lw=1.6,
        ),
    ]
    if has_interval:
        marks.append(band_swatch("its 95 % interval", legible(_OPTIMAL)))
    if lines:
        marks.append(swatch("runs of a budget", edge(), ls=(0, (1, 1.5)), lw=0.9))
    legends_below(figure, marks)
    return figure


def _draw_lines(axis: Axes, fit: ParametricFit, losses: Array) -> None:
    """Contours at round losses, even in the logarithm of what is above the floor."""
    x, y = (np.geomspace(*limits, 160) for limits in (axis.get_xlim(), axis.get_ylim()))
    surface = fit.loss(*np.meshgrid(x, y))
    E = fit.params["E"]
    low, high = float(surface.min()), float(min(surface.max(), 1.3 * losses.max()))
    levels = E + np.geomspace(max(low - E, 1e-6), max(high - E, 1e-5), 12)[1:-1]
    digits = 1 if np.diff(levels).min() > 0.1 else 2 if np.diff(levels).min() > 0.01 else 3
    levels = np.unique(np.round(levels, digits))
    axis.contour(x, y, surface, levels=levels, colors=[edge()], linewidths=0.9, zorder=2)
    _label_lines(axis, fit, levels, digits)


def _label_lines(axis: Axes, fit: ParametricFit, levels: Array, digits: int) -> None:
    """Where they leave the panel, at the right or the top: within, runs would hide the labels."""
    y = axis.get_ylim()
    grid = np.geomspace(*axis.get_xlim(), 400)
    taken: list[tuple[float, float]] = []
    for level in levels:
        tokens = fit.contour(float(level), grid)
        if y[0] <= tokens[-1] <= y[1]:
            at = (1.0, float(np.log(tokens[-1] / y[0]) / np.log(y[1] / y[0])))
        elif tokens[-1] < y[0] and tokens[0] > y[1]:
            at = (float(np.argmax(tokens <= y[1])) / (len(grid) - 1), 1.0)
        else:
            continue  # outside, or from the left edge to the bottom
        if any(abs(at[0] - u) < 0.12 and abs(at[1] - v) < 0.065 for u, v in taken):
            continue
        taken.append(at)
        right = at[0] == 1.0
        axis.annotate(
            f"{level:.{digits}f}",
            at,
            xycoords="axes fraction",
            xytext=(3, 0) if right else (0, 2),
            textcoords="offset points",
            ha="left" if right else "center",
            va="center" if right else "bottom",
            fontsize=small(),
        )


def _draw_optimum(axis: Axes, fit: ParametricFit, flops_per_param_token: float) -> bool:
    """Whether there is an interval to draw."""
    (n_low, n_high), (d_low, d_high) = axis.get_xlim(), axis.get_ylim()
    k = flops_per_param_token
    budgets = np.geomspace(k * n_low * d_low, k * n_high * d_high, 60)
    sizes = [fit.optimum(float(C), k)["n_params"] for C in budgets]
    N = np.array([s.value for s in sizes])
    line = "-" if fit.status is FitStatus.CONVERGED else DASHED
    colour = legible(_OPTIMAL)
    axis.plot(N, budgets / k / N, color=colour, lw=1.6, ls=line, zorder=4)
    lower, upper = np.array([[s.lower, s.upper] for s in sizes]).T
    if not np.isfinite([lower, upper]).all():
        return False
    edges_n = np.concatenate([lower, upper[::-1]])
    edges_d = np.concatenate([budgets / k / lower, (budgets / k / upper)[::-1]])
    axis.fill(edges_n, edges_d, color=colour, alpha=0.2, lw=0, zorder=1)
    return True


def _draw_budgets(axis: Axes, runs: pd.DataFrame, size: str) -> bool:
    """Whether there are budgets of several runs."""
    if "budget" not in runs:
        return False
    found = False
    for _, own in runs.groupby("budget"):
        if own[size].nunique() > 1:
            own = own.sort_values(size)
            axis.plot(own[size], own["n_tokens"], color=edge(), lw=0.9, ls=(0, (1, 1.5)), zorder=1)
            found = True
    return found
