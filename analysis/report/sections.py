"""Sections of a report in reading order, and those on the runs themselves."""

from collections.abc import Callable
from dataclasses import replace

from analysis.figures import list_plots
from analysis.report.answer import answer_section
from analysis.report.compute import (
    agreement_section,
    differences_section,
    hold_out_section,
    laws_section,
    multipliers_section,
    parametric_section,
)
from analysis.report.curves import isoflop_section
from analysis.report.experts import active_section, experts_section, usage_section
from analysis.report.forgetting import forgetting_section
from analysis.report.gallery import Draft
from analysis.report.tables import read_runs_table
from analysis.study import Study

_RUN_COLUMNS = (
    "series", "budget", "status", "loss", "perplexity", "n_params", "n_active_params", "n_tokens",
    "n_layers", "d_model", "n_experts", "lr", "seed", "epochs", "usage", "unevenness",
    "wall_seconds", "run_id",
)  # fmt: skip


def list_sections(study: Study) -> list[Draft]:
    """Those that the study has something for, in reading order."""
    makers: tuple[Callable[[Study], Draft | None], ...] = (
        answer_section,
        differences_section,
        isoflop_section,
        forgetting_section,
        experts_section,
        active_section,
        usage_section,
        laws_section,
        multipliers_section,
        parametric_section,
        agreement_section,
        hold_out_section,
    )
    made = [draft for make in makers if (draft := make(study)) is not None]
    of_files = list_plots(study)
    made = [replace(d, parts=[*d.parts, *of_files.pop(d.title, [])]) for d in made]
    more = [Draft(title=title, parts=plots) for title, plots in of_files.items()]
    return [*made, *more, _runs(study)]


def _runs(study: Study) -> Draft:
    frame = study.table[[c for c in _RUN_COLUMNS if study.table[c].notna().any()]]
    return Draft(title="Runs", parts=[read_runs_table(frame, "Every run, failed ones too")])
