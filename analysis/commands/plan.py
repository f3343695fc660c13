"""Three questions before the next runs: of what size, which ones, and how many seeds."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.command import Command, Options, Output, load_runs
from analysis.experts.fit import fit_expert_law
from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import BACKBONE
from analysis.fitting.status import FitError
from analysis.isoflop.fit import X_NAMES, fit_isoflop
from analysis.isoflop.methods import METHODS
from analysis.isoflop.offsets import at_budgets
from analysis.laws.forms import OF_EXPERTS
from analysis.options import SHARED, given, one_of, read_options
from analysis.planning.experiment import experiment_yaml
from analysis.planning.pair_noise import POOLS
from analysis.planning.runs import next_runs
from analysis.planning.seeds import seed_power
from analysis.planning.size import MIN_GAIN, Plan, plan
from analysis.planning.targets import FORMS
from analysis.progress import Steps
from analysis.settings import setting
from analysis.staging import staged
from analysis.surfaces.models import cells_of_models, compare_surfaces_of_models, unique_tokens
from analysis.table.sources import read_source
from experiments.system.disk import followed, write_text

_SURFACES = "surfaces"  # a way to plan beside those of isoFLOP curves


def _check_size(options: Options) -> None:
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


def _size(options: Options, table: pd.DataFrame) -> Output:
    law = None
    if options.form:
        how = {"model": options.model, "baseline": options.baseline}
        law = fit_expert_law(table, options.form, size=options.size or BACKBONE, **how)
    make = _by_surfaces if options.method == _SURFACES else _by_curves
    plans, notes = make(options, table, law)
    return Output(
        values={model: one.to_dict() for model, one in plans.items()},
        text="\n".join([*notes, *(one.summary() for one in plans.values())]),
    )


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
        notes.append(f"note: {model}: C = {k:.3g} ND, {there}; by {found[model].in_words}")
    return plans, notes


def _known_tokens(cells: pd.DataFrame) -> float:
    """As many as a run had that were new to it; infinite where no run repeated any."""
    unique, tokens = unique_tokens(cells), cells["n_tokens"].to_numpy(dtype=np.float64)
    repeats = np.isfinite(unique).any()
    return float(np.minimum(unique, tokens).max()) if repeats else float("inf")


def _check_runs(options: Options) -> None:
    path = options.write
    if options.x == "n_tokens":
        raise ValueError("--x n_tokens is of a plan by isoFLOP curves: runs have a size")
    if options.base and path is None:
        raise ValueError(f"--base {options.base} is of --write YAML; give it too")
    if path is not None and path.suffix != ".yaml":
        raise ValueError(f"--write {path} must end with .yaml, e.g. conf/experiment/NAME.yaml")
    if path is not None and path.exists():
        raise ValueError(f"--write {path} is there already; name another, or remove it")
    if path is not None and not options.path.is_dir():
        raise ValueError(
            f"--write needs a sweep's folder, whose runs have settings, not {options.path}"
        )


def _runs(options: Options, table: pd.DataFrame) -> Output:
    steps = Steps()
    try:
        found = next_runs(table, **given(options, next_runs), say=steps)
    finally:
        steps.close()
    text = found.summary()
    if options.write is not None:
        path: Path = options.write
        records = read_source(options.path).records
        said = experiment_yaml(found, records, path.stem, options.base, options.typed)
        with staged(followed(path.parent)) as new:
            write_text(new / path.name, said)
        text += f"\n\nexperiment: {path}"
    return Output(values=found.to_dict(), text=text)


def _seeds(options: Options, table: pd.DataFrame) -> Output:
    at = at_budgets(table)
    how = {**given(options, seed_power), "target": options.half_width}
    found = seed_power(at.table, **how)
    return Output.of(found, at.how)


_SHARED = f"""
--budget FLOPS  in training FLOPs: of the run to plan, or to spend on the next runs
--baseline BASELINE  the model that others are compared with (default: dense; of a law of experts
    none)
--model MODEL  which model, if the table has several
--x=n_params {one_of(X_NAMES)}  the size (%(default)s)
--level LEVEL  of intervals (default: 0.95)
"""
_QUESTIONS = {
    "size": Command(
        help="what size, tokens and experts a budget should buy: --budget alone",
        options=f"""
--method=slice {one_of((*METHODS, _SURFACES))}  how a minimum is found: by curves whose skew the
    budgets of a model share, by parabolas, by interpolation, or by the surfaces in size and tokens
    that the runs don't exclude, in place of laws of isoFLOP curves; C = kND with the k of the runs
--n-nearest N  fit only the N sizes nearest to the best
--unique-tokens TOKENS  how many tokens there are, for surfaces: more are repeats (default:
    as many as the runs' data, where they repeat it)
--form {one_of(OF_EXPERTS)}  a law of experts, to plan their number
--size SIZE  the column that N is there ({BACKBONE})
--min-gain NATS  a doubling of the experts must gain this much ({MIN_GAIN})
""",
        check=_check_size,
        read=lambda options: load_runs(
            options,
            needs=("budget", options.x, *(["n_tokens"] if options.method == _SURFACES else [])),
        ),
        compute=_size,
        writes=False,
        unused=("out",),
        reads="a budget and prints",
    ),
    "runs": Command(
        help="which runs would narrow an interval most per FLOP: --for, with --budget",
        options=f"""
--for:target TARGET  the interval to narrow: {FORMS}. N* is the best size, a its exponent,
    alpha the loss's; MODEL-MODEL is a difference of lowest losses
--write YAML  write the runs as an experiment, e.g. conf/experiment/NAME.yaml
--base EXPERIMENT  whose setting the experiment has (default: the one that the runs are of)
""",
        check=_check_runs,
        read=lambda options: load_runs(options, needs=("budget", options.x)),
        compute=_runs,
    ),
    "seeds": Command(
        help="how many seeds differences between models need: --half-width",
        options=f"""
--half-width NATS  of the interval of a mean difference, at which to stop
--pool {one_of(POOLS)}  the cells that share a noise: all, those of a model, of a budget, or
    none with another (default: the first of these whose variances do not differ at 10 %%)
--pilot SEEDS  only the first so many seeds of a cell tell the noise (Stein's two-stage rule): give
    the number that the needed seeds were planned from (default: all seeds)
""",
        read=lambda options: load_runs(options, needs=("budget", "seed")),
        compute=_seeds,
        unused=("budget", "model", "x"),
        reads="pairs of runs of one seed at every budget and size",
    ),
}


def _ask(options: Options) -> None:
    """Choose the question by what was typed. Raises ValueError for an option of another one."""
    of_runs, of_seeds = options.target is not None, options.half_width is not None
    if of_runs and of_seeds:
        raise ValueError("--for and --half-width ask two questions; give one of them")
    asked = "runs" if of_runs else "seeds" if of_seeds else "size"
    own = _QUESTIONS[asked]
    for name, command in _QUESTIONS.items():
        for option in read_options(command.options) if name != asked else ():
            if getattr(options, option.dest) not in (None, option.default):
                raise ValueError(f"{option.flag} is of {command.help}, and {own.help} was asked")
    for option in read_options(SHARED + _SHARED):
        if option.dest in own.unused and getattr(options, option.dest) not in (
            None,
            option.default,
        ):
            raise ValueError(f"{option.flag} is not for a plan of {asked}, which reads {own.reads}")
    if options.budget is None and "budget" not in own.unused:
        raise ValueError(f"--budget is required by {own.help}; give it in training FLOPs")
    options.chosen, options.command = own, f"plan_{asked}"
    own.check(options)


COMMAND = replace(
    _QUESTIONS["size"],
    help="say what a budget should buy, which runs to make next, or how many seeds to take",
    description="Plan the next runs by one of three questions: --budget alone asks what size, "
    "tokens and experts it should buy; --for, which runs would narrow an interval most per FLOP; "
    "--half-width, how many seeds differences between models need. Seeds are by pairs of runs of "
    "one seed at equal FLOPs and size: stop a cell when its half-width is reached, never by the "
    "sign of its difference or when it becomes significant: such a rule finds differences that are "
    "not there. Looking again after every seed is exact with --pilot, at a given --pool.",
    options=_SHARED,
    groups={f"{name}: {command.help}": command.options for name, command in _QUESTIONS.items()},
    check=_ask,
    unused=(),
)
