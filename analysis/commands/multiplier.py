"""Compute multipliers at stated computes and losses, as a forest plot and as curves."""

from functools import partial

import pandas as pd

from analysis.arguments import ASYMPTOTE, CURVES, UNLESS_TYPED
from analysis.command import Command, Options, Output, load_runs
from analysis.figures.multipliers import draw_forest, draw_multipliers
from analysis.fits import find_multipliers
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier.fit import compute_multipliers, lowest_points
from analysis.multiplier.profile import SLOPES
from analysis.multiplier.result import make_frame
from analysis.options import given, one_of
from analysis.study import check_choices
from analysis.table.warned import warnings_of_table


def _check(options: Options) -> None:
    for flag, values in (("at", options.at), ("at-loss", options.at_loss)):
        if len(set(values)) < len(values):
            twice = next(value for value in values if values.count(value) > 1)
            raise ValueError(f"--{flag} {twice:g} is given twice; give it once")
    for name in ("x", "method", "n_nearest") if options.points == "lowest" else ():
        if getattr(options, name) != UNLESS_TYPED[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} {getattr(options, name)} is of the curves whose "
                "minima are taken, and --points lowest fits none; leave one of the two out"
            )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    check_choices(table, options.baseline, options.asymptote)
    how = given(options, find_multipliers)
    if options.points == "lowest":
        found = compute_multipliers(lowest_points(table), **how)
    else:
        found = find_multipliers(fit_isoflop(table, **given(options, fit_isoflop)), **how)
    found = found.with_warnings(warnings_of_table(table))
    stated = found.at(options.at, options.at_loss)
    drawings = {"forest": partial(draw_forest, found, options.at, options.at_loss)}
    if any(found.over_compute(model, 2) for model in found.models):
        drawings["multipliers"] = partial(draw_multipliers, found)
    return Output(
        values={**found.to_dict(), "at": make_frame(stated).to_dict("records")},
        text=found.summary(stated),
        figures=drawings,
    )


COMMAND = Command(
    help="say how much more compute a baseline needs for the same loss",
    options=f"""--baseline=dense BASELINE  the model that others are compared with (dense)
{CURVES}{ASYMPTOTE}
--slopes=own {one_of(SLOPES)}  an alpha for each model, or one for all (%(default)s)
--points=minima {{minima,lowest}}  what the laws are of: minima of isoFLOP curves, or the
    lowest loss of each budget (%(default)s)
--at FLOPS...  state the multipliers at this compute of the models (default: at their budgets);
    repeatable
--at-loss NATS...  state them at this loss; repeatable
""",
    check=_check,
    read=lambda options: load_runs(options, needs=("budget", options.x)),
    compute=_compute,
)
