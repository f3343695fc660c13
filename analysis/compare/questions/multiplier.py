"""Compute multipliers at stated computes and losses, as a forest plot and as curves."""

from dataclasses import replace
from functools import partial

import pandas as pd

from analysis.command import Options, Output, load_runs
from analysis.compare.answer import answered, check_choice, typed
from analysis.figures.multipliers import draw_forest, draw_multipliers
from analysis.fits import find_multipliers
from analysis.isoflop.fit import X_NAMES, fit_isoflop
from analysis.isoflop.methods import METHODS
from analysis.multiplier.fit import compute_multipliers, lowest_points
from analysis.multiplier.profile import SLOPES
from analysis.options import one_of
from analysis.questions import Question
from analysis.study import check_choices
from analysis.table.warned import warnings_of_table

_LOWEST = "lowest"


def _check(options: Options) -> None:
    check_choice(options, "x", X_NAMES)
    for flag, values in (("at", options.at), ("at-loss", options.at_loss)):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"--{flag} {twice:g} is given twice; give it once")
    for name in ("x", "n_nearest") if options.method == _LOWEST else ():
        if (value := getattr(options, name)) is not None:
            raise ValueError(
                f"--{name.replace('_', '-')} {value} is of the curves whose minima are taken, and "
                f"--method {_LOWEST} fits none; leave one of the two out"
            )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    how = {"baseline": "dense", **typed(options, compute_multipliers)}
    check_choices(table, how["baseline"], options.asymptote)
    if options.method == _LOWEST:
        found = compute_multipliers(lowest_points(table), **how)
    else:
        found = find_multipliers(fit_isoflop(table, **typed(options, fit_isoflop)), **how)
    found = found.with_warnings(warnings_of_table(table))
    found = replace(found, stated=tuple(found.at(options.at, options.at_loss)))
    drawings = {"forest": partial(draw_forest, found, options.at, options.at_loss)}
    if any(found.over_compute(model, 2) for model in found.models):
        drawings["multipliers"] = partial(draw_multipliers, found)
    return answered(options, found, figures=drawings)


QUESTION = Question(
    help="how much more compute the baseline needs for the same loss, by laws of compute",
    order=5,
    options=f"""
--method {one_of((*METHODS, _LOWEST))}  what the laws are of: minima of isoFLOP curves, which are
    skewed curves of one skew, parabolas, or interpolated, or the lowest loss of each budget
    (default: {METHODS[0]})
--n-nearest N  fit only the N sizes nearest to the best
--asymptote NATS[,NATS]  the loss no compute beats, or its lowest and highest value; it belongs to
    the evaluation set (default: fitted)
--slopes {one_of(SLOPES)}  an alpha for each model, or one for all (default: own)
--at FLOPS...  state the multipliers at this compute of the models (default: at their budgets);
    repeatable
--at-loss NATS...  state them at this loss; repeatable
""",
    takes={
        "baseline": "the model (default: dense)",
        "x": f"of the curves, one of {', '.join(X_NAMES)} (default: n_params)",
    },
    suits=lambda _, runs: "budget" in runs and runs["budget"].nunique() > 1,
    check=_check,
    read=lambda options: load_runs(
        options, options.source, needs=("budget", options.x or "n_params")
    ),
    compute=_compute,
)
