"""The cost of other sizes than the best, budget by budget."""

import argparse

import pandas as pd

from analysis.arguments import add_curves, add_noise
from analysis.command import Command, Options, Output, table_of
from analysis.flatness import WITHIN, flatness
from analysis.isoflop.fit import fit_isoflop


def _options(sub: argparse.ArgumentParser) -> None:
    add_curves(sub)
    add_noise(sub)
    sub.add_argument(
        "--within",
        type=float,
        default=WITHIN,
        metavar="NATS",
        help="give the sizes that cost this much (%(default)s)",
    )
    sub.add_argument(
        "--within-compute",
        type=float,
        metavar="SHARE",
        help="give those that cost as much as this share of compute, e.g. 0.05",
    )
    sub.add_argument("--baseline", help="the model whose best loss the sizes are compared with")


def _compute(options: Options, table: pd.DataFrame) -> Output:
    fit = fit_isoflop(table, options.x, options.method, options.n_nearest, noise=options.noise)
    found = flatness(
        fit,
        within=options.within,
        within_compute=options.within_compute,
        baseline=options.baseline,
    )
    text = "\n".join([*fit.moved, found.summary()])
    return Output(values=found.to_dict(), text=text)


COMMAND = Command(
    help="say what other sizes than the best cost, budget by budget",
    options=_options,
    read=lambda options: table_of(options, needs=("budget", options.x)),
    compute=_compute,
)
