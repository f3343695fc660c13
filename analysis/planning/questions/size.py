"""Size, tokens and experts that a budget should buy."""

import numpy as np
import pandas as pd

from analysis.command import Options, Output, load_runs
from analysis.experts.fit import fit_expert_law
from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import BACKBONE
from analysis.fitting.status import FitError
from analysis.isoflop.curves import NoCurveError
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.methods import METHODS
from analysis.laws.forms import OF_EXPERTS
from analysis.options import given, one_of
from analysis.planning.size import MIN_GAIN, Plan, plan
from analysis.questions import Question
from analysis.settings import setting
from analysis.surfaces.models import cells_of_models, compare_surfaces_of_models, unique_tokens

_SURFACES = "surfaces"  # a way to plan beside those of isoFLOP curves


def _check(options: Options) -> None:
    of_law = {"size": options.size, "baseline": options.baseline, "min_gain": options.min_gain}
    flag = next((setting(name) for name, value in of_law.items() if value is not None), None)
    if options.form is None and flag is not None:
        raise ValueError(f"{flag} is of a law of experts; give --form, or leave it out")
    by_surfaces = options.method == _SURFACES
    if options.unique_tokens is not None and not by_surfaces:
        raise ValueError("--unique-tokens is of --method surfaces; give that too, or leave it out")
    if by_surfaces and options.n_nearest is not None:
        raise ValueError("--n-nearest is of isoFLOP curves, and --method surfaces fits none")
    if by_surfaces and options.x == "n_tokens":
        raise ValueError("--method surfaces plans a size: --x n_tokens is of isoFLOP curves")


def _compute(options: Options, table: pd.DataFrame) -> Output:
    law = None
    if options.form:
        how = {"model": options.model, "baseline": options.baseline}
        law = fit_expert_law(table, options.form, size=options.size or BACKBONE, **how)
    plans, notes = _plans(options, table, law)
    return Output(
        values={model: one.to_dict() for model, one in plans.items()},
        text="\n".join([*notes, *(one.summary() for one in plans.values())]),
    )


def _plans(
    options: Options, table: pd.DataFrame, law: ExpertLawFit | None
) -> tuple[dict[str, Plan], list[str]]:
    """By what was asked for; if nothing was, and no budget has sizes enough, by surfaces."""
    if options.method == _SURFACES:
        return _by_surfaces(options, table, law)
    try:
        return _by_curves(options, table, law)
    except NoCurveError as error:
        of_curves = options.method is not None or options.n_nearest is not None
        if of_curves or options.x == "n_tokens" or table["n_tokens"].isna().all():
            raise
        try:
            plans, notes = _by_surfaces(options, table, law)
        except FitError as other:
            raise FitError(f"{error}; and by surfaces: {other}") from None
        return plans, [f"note: {error}; so it is planned by --method surfaces", *notes]


def _by_curves(
    options: Options, table: pd.DataFrame, law: ExpertLawFit | None
) -> tuple[dict[str, Plan], list[str]]:
    """A plan a model, and notes."""
    fit = fit_isoflop(table, **given(options, fit_isoflop))
    models = [options.model] if options.model else [law.model for law in fit.laws]
    if not models:
        raise FitError(f"no power law to plan by: {fit.why_no_laws}")
    how = {**given(options, plan), "experts": law}
    plans = {model: plan(fit=fit, **{**how, "model": model}) for model in models}
    return plans, [f"note: {text}" for text in fit.moved]


def _by_surfaces(
    options: Options, table: pd.DataFrame, law: ExpertLawFit | None
) -> tuple[dict[str, Plan], list[str]]:
    found, errors = compare_surfaces_of_models(table, options.x, options.model)
    plans, notes = {}, [f"not fitted: {text}" for text in errors]
    for model, cells in cells_of_models(table, options.x, options.model).items():
        if model not in found:
            continue
        k = float((cells["budget"] / (cells[options.x] * cells["n_tokens"])).median())
        unique = options.unique_tokens or _known_tokens(cells)
        how = {**given(options, plan), "model": model, "experts": law}
        plans[model] = plan(fit=found[model], flops_per_param_token=k, n_unique=unique, **how)
        there = f"{unique:.4g} unique tokens" if np.isfinite(unique) else "all tokens new"
        notes.append(f"note: {model}: C = {k:.3g} ND, {there}; by {found[model].by}")
    return plans, notes


def _known_tokens(cells: pd.DataFrame) -> float:
    """As many as a run had that were new to it; infinite where no run repeated any."""
    unique, tokens = unique_tokens(cells), cells["n_tokens"].to_numpy(dtype=np.float64)
    repeats = np.isfinite(unique).any()
    return float(np.minimum(unique, tokens).max()) if repeats else float("inf")


def _read(options: Options) -> pd.DataFrame:
    needs = ["budget", options.x, *(["n_tokens"] if options.method == _SURFACES else [])]
    return load_runs(options, options.source, needs=needs)


QUESTION = Question(
    help="what size, tokens and experts a budget should buy",
    order=0,
    options=f"""
--method {one_of((*METHODS, _SURFACES))}  how a minimum is found: by curves whose skew the
    budgets of a model share, by parabolas, by interpolation, or by the surfaces in size and tokens
    that the runs don't exclude, in place of laws of isoFLOP curves; C = kND with the k of the runs
    (default: slice, or surfaces where no budget has sizes enough for a curve)
--n-nearest N  fit only the N sizes nearest to the best
--unique-tokens TOKENS  how many tokens there are, for surfaces: more are repeats (default:
    as many as the runs' data, where they repeat it)
--form {one_of(OF_EXPERTS)}  a law of experts, to plan their number
--size SIZE  the column that N is there ({BACKBONE})
--min-gain NATS  a doubling of the experts must gain this much ({MIN_GAIN})
""",
    takes={"budget": "of the run to plan", "model": "", "x": ""},
    requires=("budget",),
    check=_check,
    read=_read,
    compute=_compute,
    writes=False,
    unused=("out",),
    reads="a budget and prints",
)
