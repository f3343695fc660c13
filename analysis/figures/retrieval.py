"""A layer's retrieval: active experts by heads, and usage by its settings."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from analysis import numbers
from analysis.figures.layout import (
    keep_outer_labels,
    label_ends,
    legends_below,
    panels,
    swatch,
)
from analysis.figures.palette import Look, ink, model_looks, ordered_looks, page
from analysis.figures.scales import LABELS, experts_scale, log_scale, padded
from analysis.figures.schemes import Colour
from analysis.figures.style import DASHED, LINES, edge
from analysis.table.layer import AXES, setting_names
from analysis.table.load import best_of_cells, finished

_SETTINGS = (DASHED, *LINES[:1], *LINES[2:])  # off: dashed; on: solid, then others


def draw_active(table: pd.DataFrame) -> Figure:
    """Perplexity against heads h, a line for each number of active experts h k (He 2024, Fig. 3b).

    A panel for each model, setting of its layer, number of experts and budget of which h varies;
    of several sizes, learning rates or seeds the best. The best of each line is ringed. Raises
    ValueError if n_heads or top_k are not there, or h does not vary.
    """
    runs = _known(table, ["n_heads", "top_k", "loss"], "draw_active")
    keys = ["model", "setting", "n_experts", "budget"]
    runs = runs.assign(**{name: None for name in keys if name not in runs})
    runs = runs.assign(setting=setting_names(runs, but=AXES))
    cells = best_of_cells(runs, by=[*keys, "n_heads", "top_k"])
    cells = cells.assign(h=cells["n_heads"].astype(float))
    cells = cells.assign(active=cells["h"] * cells["top_k"].astype(float))
    groups = [
        (key, own)
        for key, own in cells.groupby(keys, dropna=False, sort=True)
        if own["h"].nunique() > 1
    ]
    if not groups:
        raise ValueError("draw_active: n_heads does not vary within a model, experts and budget")
    products = sorted({v for _, own in groups for v in own["active"]})
    looks = ordered_looks(products)
    figure, axes = panels(len(groups), height=2.9)
    for axis, (key, own) in zip(axes, groups, strict=True):
        experts_scale(axis, "n_heads", own["h"].tolist(), room=0.3)
        log_scale(axis, "y", "perplexity")
        axis.set_ylim(*padded(own["perplexity"].tolist(), 0.08))
        axis.set_title(_title(key, [k for k, _ in groups]))
    keep_outer_labels(axes)
    legends_below(figure, [swatch("best of its line", edge(), marker="o", ms=9, mfc="none")])
    for axis, (_, own) in zip(axes, groups, strict=True):
        _draw_products(axis, own, looks)
    return figure


def _draw_products(axis: Axes, cells: pd.DataFrame, looks: Mapping[float, Look]) -> None:
    ends: list[tuple[float, float, str, Colour]] = []
    for value, own in cells.groupby("active", sort=True):
        look, own = looks[float(value)], own.sort_values("h")  # type: ignore[arg-type]
        axis.plot(own["h"], own["perplexity"], marker=look.marker, ms=5, color=look.colour)
        best = own.iloc[int(own["perplexity"].to_numpy().argmin())]
        ring: dict[str, Any] = {"marker": "o", "ms": 10, "mfc": "none", "mec": ink(), "mew": 0.9}
        axis.plot(best["h"], best["perplexity"], ls="", **ring)
        last = own.iloc[-1]
        ends.append((float(last["h"]), float(last["perplexity"]), f"hk={value:g}", look.colour))
    label_ends(axis, ends)


def draw_usage(table: pd.DataFrame) -> Figure:
    """Usage, unevenness and perplexity against the number of experts, by settings of the layer.

    He 2024, Table 2. A row of panels for each budget, a line for each model and setting: means
    over seeds, of several sizes or learning rates those with the lowest loss. Of several heads and
    top_k of a model those with the most numbers of experts. Rows without usage are excluded. Raises
    ValueError if none is left.
    """
    runs = _known(table, ["usage", "unevenness", "n_experts", "loss"], "draw_usage")
    keys = ["model", "setting", "budget"]
    runs = runs.assign(**{name: None for name in keys if name not in runs})
    runs = runs.assign(setting=setting_names(runs, but=AXES))
    cells = _usage_cells(runs, keys)
    cells = cells.assign(
        E=cells["n_experts"].astype(float),
        usage=100 * cells["usage"],
        perplexity=np.exp(cells["loss"].astype(float)),
    )
    budgets = sorted(cells["budget"].dropna().unique()) or [None]
    settings = sorted(cells["setting"].unique(), key=lambda text: (not _is_off(text), text))
    looks = model_looks(cells["model"])
    figure, axes = panels(3 * len(budgets), n_columns=3, height=2.4)
    for i, axis in enumerate(axes):
        budget, what = budgets[i // 3], ("usage", "unevenness", "perplexity")[i % 3]
        own = cells if budget is None else cells[cells["budget"] == budget]
        experts_scale(axis, "n_experts", cells["E"].tolist())
        _set_quantity(axis, what, own[what].tolist())
        if i % 3 == 0 and len(budgets) > 1:
            axis.set_title(f"{numbers.flops_mathtext(float(budget))} FLOPs", loc="left")
        for (model, setting), line in own.groupby(["model", "setting"], sort=True):
            look, rank = looks[str(model)], settings.index(str(setting))
            axis.plot(
                *(line["E"], line[what]),
                color=look.colour,
                ls=_SETTINGS[rank % len(_SETTINGS)],
                marker=look.marker,
                ms=5,
                mfc=page() if rank == 0 else look.colour,
                mec=look.colour,
                clip_on=what != "usage",  # 100 % is at the edge
            )
    keep_outer_labels(axes, y=False)
    entries = [
        swatch(
            f"{model}, {setting}" if setting else model,
            looks[model].colour,
            marker=looks[model].marker,
            ls=_SETTINGS[rank % len(_SETTINGS)],
            mfc=page() if rank == 0 else looks[model].colour,
        )
        for model, setting in sorted(set(zip(cells["model"], cells["setting"], strict=True)))
        for rank in [settings.index(setting)]
    ]
    legends_below(figure, entries)
    return figure


def _is_off(setting: str) -> bool:
    """Whether all that it names is off: query_norm=none."""
    return all(part.rpartition("=")[2] in ("none", "False", "0") for part in setting.split())


def _usage_cells(runs: pd.DataFrame, keys: Sequence[str]) -> pd.DataFrame:
    """Cells of draw_usage: a row for each combination of `keys` and number of experts."""
    heads = [name for name in ("model", "n_heads", "top_k") if name in runs]
    numbers = runs.groupby(heads, dropna=False)["n_experts"].transform("nunique")
    runs = runs[numbers == numbers.groupby(runs["model"]).transform("max")]
    settings = [n for n in (*heads[1:], "n_params", "lr") if n in runs]
    means = (
        runs.groupby([*keys, "n_experts", *settings], dropna=False)[["loss", "usage", "unevenness"]]
        .mean()
        .reset_index()
    )
    best = means.groupby([*keys, "n_experts"], dropna=False)["loss"].idxmin()
    return means.loc[best].sort_values("n_experts")


def _set_quantity(axis: Axes, what: str, values: Sequence[float]) -> None:
    if what == "perplexity":
        log_scale(axis, "y", what)
        axis.set_ylim(*padded(values, 0.08))
        return
    axis.set_ylabel(LABELS[what])
    axis.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if what == "usage":  # from a round number below the least, so that 99.8 % is seen as near 100
        low = min(90.0, 10 * np.floor(min(values) / 10))
        axis.set_ylim(low, 100 + 0.03 * (100 - low))
    else:
        axis.set_ylim(0, 1.1 * max([*values, 0.1]))


def _known(table: pd.DataFrame, names: Sequence[str], what: str) -> pd.DataFrame:
    """Finished runs that have all of these. Raises ValueError naming what is missing."""
    done = finished(table)
    absent = [name for name in names if name not in done or done[name].isna().all()]
    if absent:
        raise ValueError(f"{what} needs {' and '.join(absent)}: no finished run has any")
    known = done[done[list(names)].notna().all(axis=1)]
    if known.empty:
        raise ValueError(f"{what}: no finished run has all of {', '.join(names)}")
    return known.reset_index(drop=True)


def _title(key: tuple[object, ...], keys: Sequence[tuple[object, ...]]) -> str:
    """A panel's model and experts, and its setting and budget where other panels have others."""
    texts = [
        lambda v: str(v),
        lambda v: str(v),
        lambda v: f"{numbers.experts(float(v))} experts" if pd.notna(v) else "",
        lambda v: f"{numbers.flops_mathtext(float(v))} FLOPs" if pd.notna(v) else "",
    ]
    shown = [
        text(value)
        for i, (value, text) in enumerate(zip(key, texts, strict=True))
        if i in (0, 2) or len({str(other[i]) for other in keys}) > 1
    ]
    return ", ".join(part for part in shown if part)
