"""Perplexity against the number of experts, with the laws fitted to it."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from analysis import numbers
from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import BACKBONE, find_rows
from analysis.figures.layout import band_swatch, faint, full, legends_below, panels, swatch
from analysis.figures.palette import Look, ordered_looks
from analysis.figures.scales import LABELS, experts_scale, log_scale, padded
from analysis.figures.style import DASHED, LINES, edge
from analysis.fitting.status import FitStatus
from analysis.laws.law import Variables
from analysis.table.load import best_of_cells, finished, require

_PLACES, _EACH = 121, 5  # of a line, and which of them its band is computed at
_ONE_SIZE = 1.1  # sizes nearer than this factor are one: routers grow with the number of experts


def draw_experts(
    table: pd.DataFrame,
    laws: Sequence[ExpertLawFit] = (),
    slopes: pd.DataFrame | None = None,
    *,
    model: str | None = None,
    size_name: str | None = None,
    baseline: str | None = None,
) -> Figure:
    """Perplexity against the number of experts of one model, a colour for each size.

    Faint points are runs; full ones the mean over seeds at the best learning rate. One law is drawn
    as lines with their 95 % interval, dashed if it has a warning; several as lines of
    different style.
    model, size_name: the laws'; without laws the one model with experts, and the backbone's
    parameters. baseline: the model that counts as one expert, as in fit_expert_law.
    slopes: of size_slopes, for the legend. Raises ValueError for laws that don't belong together,
    and a table that lacks what is drawn.
    """
    model, size_name = _agreed(table, laws, model, size_name, baseline)
    baseline = baseline or next((law.baseline for law in laws if law.baseline), None)
    runs = _runs(table, model, size_name, baseline)
    cells = best_of_cells(runs, by=["group", "n_experts", "budget"])
    sizes = {
        int(g): _middle(runs.loc[runs["group"] == g, size_name]) for g in sorted(set(runs["group"]))
    }
    series = ordered_looks(list(sizes))
    figure, (axis,) = panels(1, height=3.2)
    experts_scale(axis, "n_experts", runs["n_experts"].astype(float).tolist())
    log_scale(axis, "y", "perplexity")
    axis.set_ylim(*padded(np.exp(runs["loss"].to_numpy(dtype=np.float64)).tolist(), 0.08))
    for g, look in series.items():
        own, best = runs[runs["group"] == g], cells[cells["group"] == g]
        runs_of = faint(look.colour, look.marker, 3, 0.35)
        axis.plot(own["n_experts"], np.exp(own["loss"]), **runs_of)
        best_of = full(look.colour, look.marker)
        axis.plot(best["n_experts"], best["perplexity"], **best_of, zorder=4)
        for i, law in enumerate(laws):
            _draw_law(axis, law, own, look, _line(laws, i), band=len(laws) == 1)
    entries = [
        swatch(_size_text(sizes[g], slopes), look.colour, marker=look.marker, ls="-")
        for g, look in series.items()
    ]
    title = LABELS.get(size_name, size_name)
    if slopes is not None:
        title += ":\n−d ln L / d ln E (95 % interval)"
    legends_below(figure, entries, _law_entries(laws), _marks(runs, cells), titles=[title])
    return figure


def _agreed(
    table: pd.DataFrame,
    laws: Sequence[ExpertLawFit],
    model: str | None,
    size_name: str | None,
    baseline: str | None,
) -> tuple[str, str]:
    """One model and size of the laws, or those given or found without laws."""
    if any(law.form_name == "granularity" for law in laws):
        raise ValueError("draw_experts: the granularity law has no number of experts to draw")
    more = [law.form_name for law in laws if not law.of_experts_alone]
    if more:
        raise ValueError(
            f"draw_experts draws laws in a size and a number of experts; {', '.join(more)} "
            "has other variables too"
        )
    models = sorted({law.model for law in laws} | ({model} if model else set()))
    names = sorted({law.size_name for law in laws} | ({size_name} if size_name else set()))
    if not models:
        done = finished(table)
        found = done.loc[done["n_experts"].notna() & (done["model"] != baseline), "model"]
        models = sorted(found.unique())
    if len(models) != 1:
        raise ValueError(
            f"draw_experts draws one model, got {', '.join(models) or 'none'}; name it: model="
        )
    if len(names) > 1:
        raise ValueError(
            f"draw_experts: laws in {' and '.join(names)} have no common size; draw each apart"
        )
    return models[0], names[0] if names else BACKBONE


def _runs(table: pd.DataFrame, model: str, size_name: str, baseline: str | None) -> pd.DataFrame:
    """Model's finished runs, and the baseline's as one expert, with their group of size."""
    runs = find_rows(table, model, baseline)
    if runs.empty:
        raise ValueError(f"draw_experts: no finished run of model={model!r}")
    size = "n_active_params" if size_name == BACKBONE else size_name
    require(runs, ["n_experts", size, "loss"], "draw_experts")
    runs = runs.sort_values(size_name).reset_index(drop=True)
    steps = np.diff(np.log(runs[size_name].to_numpy(dtype=np.float64)), prepend=np.nan)
    return runs.assign(group=np.cumsum(steps > np.log(_ONE_SIZE)))


def _middle(sizes: pd.Series) -> float:
    return float(np.exp(np.log(sizes.astype(float).unique()).mean()))


def _line(laws: Sequence[ExpertLawFit], i: int) -> Any:
    """One law is dashed if it has a warning; several differ by their dashes."""
    if len(laws) > 1:
        return LINES[i % len(LINES)]
    return "-" if laws[0].status is FitStatus.CONVERGED else DASHED


def _draw_law(
    axis: Axes, law: ExpertLawFit, runs: pd.DataFrame, look: Look, line: Any, *, band: bool
) -> None:
    """At the size that the runs have there: with a router's keys it grows with the experts."""
    logs = runs[["n_experts", law.size_name]].astype(float).apply(np.log)
    at = logs.groupby("n_experts").mean()
    grid = np.geomspace(min(law.experts), max(law.experts), _PLACES)
    size = np.exp(np.interp(np.log(grid), at.index.to_numpy(), at[law.size_name].to_numpy()))
    loss = law.loss_at(Variables.of(size, E=grid))
    axis.plot(grid, np.exp(loss), color=look.colour, ls=line, zorder=3)
    if band:
        predicted = law.predict(size[::_EACH], grid[::_EACH])
        bounds = np.exp(predicted.lower), np.exp(predicted.upper)
        axis.fill_between(grid[::_EACH], *bounds, color=look.colour, alpha=0.18, lw=0, zorder=1)


def _size_text(size: float, slopes: pd.DataFrame | None) -> str:
    if slopes is None:
        return numbers.count(size)
    near = np.abs(np.log(slopes["size"].to_numpy(dtype=np.float64) / size))
    if (near <= np.log(_ONE_SIZE)).sum() > 1:
        return f"{numbers.count(size)}: a slope a budget"
    if not len(near) or near.min() > np.log(_ONE_SIZE):
        return f"{numbers.count(size)}: no slope"
    slope, low, high = slopes[["slope", "lower", "upper"]].to_numpy(dtype=np.float64)[near.argmin()]
    shown = numbers.with_interval(slope, low, high).replace("-", "−")
    return f"{numbers.count(size)}: {shown}"


def _law_entries(laws: Sequence[ExpertLawFit]) -> list[Artist]:
    entries: list[Artist] = []
    for i, law in enumerate(laws):
        status = "" if law.status is FitStatus.CONVERGED else f", {law.status}"
        text = f"{law.form_name} (rmse {law.rmse:.2g} of ln L{status})"
        entries.append(swatch(text, edge(), ls=_line(laws, i)))
    if len(laws) == 1 and (laws[0].runs is not None or len(laws[0].draws)):
        entries.append(band_swatch("95 % interval of the law"))
    return entries


def _marks(runs: pd.DataFrame, cells: pd.DataFrame) -> list[Artist]:
    if len(runs) == len(cells):
        return [swatch("run", edge(), marker="o")]
    seeds = bool((cells["n_seeds"] > 1).any())
    return [
        swatch("mean of seeds" if seeds else "best run", edge(), marker="o"),
        swatch("run", edge(), marker="o", ms=3, mew=0, alpha=0.5),
    ]
