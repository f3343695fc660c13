"""How many seeds the differences between models need."""

import argparse

import pandas as pd

from analysis.command import Command, Options, Output, table_of
from analysis.isoflop.offsets import at_budgets
from analysis.power.compute import seed_power
from analysis.power.noise import POOLS


def _options(sub: argparse.ArgumentParser) -> None:
    sub.description = (
        "Say how many seeds differences between models need, by pairs of runs of one seed at equal "
        "FLOPs and size. Stop a cell when its half-width is reached, never by the sign of its "
        "difference or when it becomes significant: such a rule finds differences that are not "
        "there. Looking again after every seed is exact with --pilot, at a given --pool."
    )
    sub.add_argument(
        "--baseline", default="dense", help="the model that others are compared with (dense)"
    )
    sub.add_argument(
        "--half-width",
        type=float,
        required=True,
        metavar="NATS",
        help="of the interval of a mean difference, at which to stop",
    )
    sub.add_argument("--level", type=float, default=0.95, help="of that interval (%(default)s)")
    sub.add_argument(
        "--pool",
        choices=POOLS,
        help="the cells that share a noise: all, those of a model, of a budget, or none with "
        "another (default: the first of these whose variances do not differ at 10 %%)",
    )
    sub.add_argument(
        "--pilot",
        type=int,
        metavar="SEEDS",
        help="only the first so many seeds of a cell tell the noise (Stein's two-stage rule): give "
        "the number that the needed seeds were planned from (default: all seeds)",
    )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    at = at_budgets(table)
    found = seed_power(
        at.table,
        options.baseline,
        target=options.half_width,
        level=options.level,
        pool=options.pool,
        pilot=options.pilot,
    )
    return Output(values=found.to_dict(), text="\n".join([*at.how, found.summary()]))


COMMAND = Command(
    help="say how many seeds differences between models need",
    options=_options,
    read=lambda options: table_of(options, needs=("budget", "seed")),
    compute=_compute,
)
