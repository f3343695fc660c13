"""Compute multipliers at stated computes and losses, as a forest plot and as curves."""

import argparse
from functools import partial

import pandas as pd

from analysis.arguments import UNLESS_TYPED, add_asymptote, add_curves
from analysis.command import Command, Options, Output, table_of
from analysis.figures.multipliers import draw_forest, draw_multipliers
from analysis.fits import multipliers_of
from analysis.isoflop.fit import fit_isoflop
from analysis.multiplier.fit import compute_multipliers, lowest_points
from analysis.multiplier.profile import SLOPES
from analysis.multiplier.result import frame_of
from analysis.study import check_choices
from analysis.table.warned import warnings_of_table


def _options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--baseline", default="dense", help="the model that others are compared with (dense)"
    )
    add_curves(sub)
    add_asymptote(sub)
    sub.add_argument(
        "--slopes",
        default="own",
        choices=SLOPES,
        help="an alpha for each model, or one for all (%(default)s)",
    )
    sub.add_argument(
        "--points",
        default="minima",
        choices=["minima", "lowest"],
        help="what the laws are of: minima of isoFLOP curves, or the lowest loss of each budget "
        "(%(default)s)",
    )
    sub.add_argument(
        "--at",
        type=float,
        action="append",
        default=[],
        metavar="FLOPS",
        help="state the multipliers at this compute of the models (default: at their budgets); "
        "repeatable",
    )
    sub.add_argument(
        "--at-loss",
        type=float,
        action="append",
        default=[],
        metavar="NATS",
        help="state them at this loss; repeatable",
    )


def _check(options: Options) -> None:
    for flag, given in (("at", options.at), ("at-loss", options.at_loss)):
        if len(set(given)) < len(given):
            twice = next(value for value in given if given.count(value) > 1)
            raise ValueError(f"--{flag} {twice:g} is given twice; give it once")
    for name in ("x", "method", "n_nearest") if options.points == "lowest" else ():
        if getattr(options, name) != UNLESS_TYPED[name]:
            raise ValueError(
                f"--{name.replace('_', '-')} {getattr(options, name)} is of the curves whose "
                "minima are taken, and --points lowest fits none; leave one of the two out"
            )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    check_choices(table, options.baseline, options.asymptote)
    how = {"asymptote": options.asymptote, "slopes": options.slopes}
    if options.points == "lowest":
        found = compute_multipliers(lowest_points(table), options.baseline, **how)
    else:
        fit = fit_isoflop(table, options.x, options.method, options.n_nearest)
        found = multipliers_of(fit, options.baseline, **how)
    found = found.with_warnings(warnings_of_table(table))
    stated = found.at(options.at, options.at_loss)
    drawings = {"forest": partial(draw_forest, found, options.at, options.at_loss)}
    if any(found.over_compute(model, 2) for model in found.models):
        drawings["multipliers"] = partial(draw_multipliers, found)
    return Output(
        values={**found.to_dict(), "at": frame_of(stated).to_dict("records")},
        text=found.summary(stated),
        figures=drawings,
    )


COMMAND = Command(
    help="say how much more compute a baseline needs for the same loss",
    options=_options,
    check=_check,
    read=lambda options: table_of(options, needs=("budget", options.x)),
    compute=_compute,
)
