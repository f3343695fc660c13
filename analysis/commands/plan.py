"""Size and tokens that a budget should buy."""

from typing import Any

import numpy as np
import pandas as pd

from analysis.arguments import CHOICE, CURVES
from analysis.command import Command, Options, Output, load_runs
from analysis.experts.fit import fit_expert_law
from analysis.experts.runs import BACKBONE
from analysis.fitting.status import FitError
from analysis.isoflop.fit import fit_isoflop
from analysis.laws.forms import OF_EXPERTS
from analysis.options import given, one_of
from analysis.planner import MIN_GAIN, Plan, plan
from analysis.surfaces.models import cells_of_models, compare_surfaces_of_models, unique_tokens


def _check(options: Options) -> None:
    given = {
        "--size": options.size,
        "--baseline": options.baseline,
        "--min-gain": options.min_gain,
    }
    flag = next((flag for flag, value in given.items() if value is not None), None)
    if options.form is None and flag is not None:
        raise ValueError(f"{flag} is of a law of experts; give --form, or leave it out")
    if options.unique_tokens is not None and not options.surfaces:
        raise ValueError("--unique-tokens is of --surfaces; give that too, or leave it out")
    if options.surfaces and options.x == "n_tokens":
        raise ValueError("--surfaces plans a size: --x n_tokens is of isoFLOP curves")


def _compute(options: Options, table: pd.DataFrame) -> Output:
    law = None
    if options.form:
        how = {"model": options.model, "baseline": options.baseline}
        law = fit_expert_law(table, options.form, size=options.size or BACKBONE, **how)
    how = {"experts": law, "min_gain": options.min_gain or MIN_GAIN}
    make = _by_surfaces if options.surfaces else _by_curves
    plans, notes = make(options, table, how)
    return Output(
        values={model: one.to_dict() for model, one in plans.items()},
        text="\n".join([*notes, *(one.summary() for one in plans.values())]),
    )


def _by_curves(
    options: Options, table: pd.DataFrame, how: dict[str, Any]
) -> tuple[dict[str, Plan], list[str]]:
    """A plan a model, and notes."""
    fit = fit_isoflop(table, **given(options, fit_isoflop))
    models = [options.model] if options.model else [law.model for law in fit.laws]
    if not models:
        raise FitError(f"no power law to plan by: {fit.why_no_laws}")
    plans = {model: plan(options.budget, fit, model=model, **how) for model in models}
    return plans, [f"note: {text}" for text in fit.moved]


def _by_surfaces(
    options: Options, table: pd.DataFrame, how: dict[str, Any]
) -> tuple[dict[str, Plan], list[str]]:
    found, errors = compare_surfaces_of_models(table, options.x, options.model)
    plans, notes = {}, [f"not fitted: {text}" for text in errors]
    for model, cells in cells_of_models(table, options.x, options.model).items():
        if model not in found:
            continue
        k = float((cells["budget"] / (cells[options.x] * cells["n_tokens"])).median())
        unique = options.unique_tokens or _known_tokens(cells)
        given: dict[str, Any] = {"model": model, "flops_per_param_token": k, "n_unique": unique}
        plans[model] = plan(options.budget, found[model], **given, **how)
        there = f"{unique:.4g} unique tokens" if np.isfinite(unique) else "all tokens new"
        notes.append(f"note: {model}: C = {k:.3g} ND, {there}; by {found[model].in_words}")
    return plans, notes


def _known_tokens(cells: pd.DataFrame) -> float:
    """As many as a run had that were new to it; infinite where no run repeated any."""
    unique, tokens = unique_tokens(cells), cells["n_tokens"].to_numpy(dtype=np.float64)
    repeats = np.isfinite(unique).any()
    return float(np.minimum(unique, tokens).max()) if repeats else float("inf")


def _needs(options: Options) -> tuple[str, ...]:
    return ("budget", options.x, *(["n_tokens"] if options.surfaces else []))


COMMAND = Command(
    help="say what size, tokens and experts a budget should buy",
    options=f"""--budget! FLOPS  in training FLOPs
{CURVES}{CHOICE}
--surfaces  by the surfaces in size and tokens that the runs don't exclude, in place of the laws of
    isoFLOP curves; C = kND with the k of the runs
--unique-tokens TOKENS  how many tokens there are, for --surfaces: more are repeats (default:
    as many as the runs' data, where they repeat it)
--form {one_of(OF_EXPERTS)}  a law of experts, to plan their number
--size SIZE  the column that N is there ({BACKBONE})
--min-gain NATS  a doubling of the experts must gain this much ({MIN_GAIN})
""",
    check=_check,
    read=lambda options: load_runs(options, needs=_needs(options)),
    compute=_compute,
    writes=False,
)
