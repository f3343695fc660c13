"""The sections of a report in reading order, and those on the runs themselves."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from analysis.isoflop.curves import IsoFLOPFit
from analysis.progress import Say, silent
from analysis.report.compute import (
    agreement_section,
    differences_section,
    hold_out_section,
    isoflop_section,
    laws_section,
    multipliers_section,
    parametric_section,
    seconds_section,
)
from analysis.report.experts import active_section, experts_section, usage_section
from analysis.report.gallery import Gallery
from analysis.report.page import Block, DataTable, Section, Text
from analysis.report.tables import units_of
from analysis.report.warnings import by_cause, warnings_of
from analysis.study import Study
from analysis.table.load import best_of_cells, finished

_RUN_COLUMNS = (
    "series", "budget", "status", "loss", "perplexity", "n_params", "n_active_params", "n_tokens",
    "n_layers", "d_model", "n_experts", "lr", "seed", "epochs", "usage", "unevenness",
    "wall_seconds", "run_id",
)  # fmt: skip


def sections_of(study: Study, gallery: Gallery, say: Say = silent) -> list[Section]:
    """Those that the study has something for, in reading order; say is told each that is drawn."""
    makers: tuple[Callable[[Study, Gallery], Section | None], ...] = (
        _summary,
        isoflop_section,
        differences_section,
        seconds_section,
        laws_section,
        parametric_section,
        agreement_section,
        hold_out_section,
        experts_section,
        active_section,
        usage_section,
        multipliers_section,
    )
    made = []
    for make in makers:
        name = getattr(make, "__name__", "").strip("_").removesuffix("_section")
        say(f"drawing: {name}")
        made.append(make(study, gallery))
    return [*(section for section in made if section is not None), _runs(study)]


def _summary(study: Study, gallery: Gallery) -> Section:
    best = _best_sizes(study)
    blocks: list[Block] = [
        DataTable(
            frame=best,
            caption="The best size of each model and budget: held-out perplexity per token, of "
            "the mean loss over seeds",
            units={str(name): "FLOPs" for name in best.columns if str(name).startswith("C =")},
            formats={str(name): ".2f" for name in best.columns if name != "series"},
        )
    ]
    if study.isoflop is not None:
        minima = _minima(study.isoflop)
        blocks.append(
            DataTable(
                frame=minima,
                caption="The fitted minimum of each curve, with 95 % intervals",
                units=units_of(minima, size=study.x_name),
            )
        )
    blocks.append(by_cause(warnings_of(study)))
    if study.missing:
        lines = "\n\n".join(f"Not fitted: {what}: {why}." for what, why in study.missing)
        blocks.append(Text(text=lines))
    return Section(title="Summary", blocks=blocks)


def _best_sizes(study: Study) -> pd.DataFrame:
    """A row a model, a column a budget."""
    done = finished(study.table)
    size = "n_params" if done["n_params"].notna().all() else "n_active_params"
    cells = best_of_cells(done, by=["series", "budget", size])
    if done["budget"].isna().all():
        return cells.groupby("series", sort=False)[["perplexity"]].min().reset_index()
    wide = cells.pivot_table(index="series", columns="budget", values="perplexity", aggfunc="min")
    wide.columns = [f"C = {budget:.4g}" for budget in wide.columns]
    return wide.reset_index()


def _minima(fit: IsoFLOPFit) -> pd.DataFrame:
    rows = []
    for c in fit.curves:
        rows.append(
            {
                "model": c.model,
                "budget": c.budget,
                f"{fit.x_name}*": c.x_opt,
                "lower": c.x_interval[0],
                "upper": c.x_interval[1],
                "loss*": c.loss_opt,
                "loss lower": c.loss_interval[0],
                "loss upper": c.loss_interval[1],
                "perplexity": np.exp(c.loss_opt),
                "sizes": c.n_points,
                "rmse": c.rmse,
                "status": str(c.status),
                "flags": ", ".join(c.flags),
            }
        )
    return pd.DataFrame(rows)


def _runs(study: Study) -> Section:
    columns = [c for c in _RUN_COLUMNS if study.table[c].notna().any()]
    frame = study.table[columns]
    table = DataTable(
        frame=frame, caption="Every run, failed ones too", units=units_of(frame, study.x_name)
    )
    return Section(title="Runs", blocks=[table])
