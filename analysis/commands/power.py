"""How many seeds the differences between models need."""

import pandas as pd

from analysis.command import Command, Options, Output, load_runs
from analysis.isoflop.offsets import at_budgets
from analysis.options import given, one_of
from analysis.power.compute import seed_power
from analysis.power.noise import POOLS


def _compute(options: Options, table: pd.DataFrame) -> Output:
    at = at_budgets(table)
    found = seed_power(at.table, target=options.half_width, **given(options, seed_power))
    return Output.of(found, at.how)


COMMAND = Command(
    help="say how many seeds differences between models need",
    description="Say how many seeds differences between models need, by pairs of runs of one seed "
    "at equal FLOPs and size. Stop a cell when its half-width is reached, never by the sign of its "
    "difference or when it becomes significant: such a rule finds differences that are not there. "
    "Looking again after every seed is exact with --pilot, at a given --pool.",
    options=f"""
--baseline=dense BASELINE  the model that others are compared with (dense)
--half-width! NATS  of the interval of a mean difference, at which to stop
--level=0.95 LEVEL  of that interval (%(default)s)
--pool {one_of(POOLS)}  the cells that share a noise: all, those of a model, of a budget, or
    none with another (default: the first of these whose variances do not differ at 10 %%)
--pilot SEEDS  only the first so many seeds of a cell tell the noise (Stein's two-stage rule): give
    the number that the needed seeds were planned from (default: all seeds)
""",
    read=lambda options: load_runs(options, needs=("budget", "seed")),
    compute=_compute,
)
