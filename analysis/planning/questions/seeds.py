"""Seeds that differences between models need."""

import pandas as pd

from analysis.command import Options, Output, load_runs
from analysis.isoflop.offsets import at_budgets
from analysis.options import given, one_of
from analysis.planning.pair_noise import POOLS
from analysis.planning.seeds import seed_power
from analysis.questions import Question


def _compute(options: Options, table: pd.DataFrame) -> Output:
    at = at_budgets(table)
    how = {**given(options, seed_power), "target": options.half_width}
    found = seed_power(at.table, **how)
    return Output.of(found, at.how)


QUESTION = Question(
    help="how many seeds differences between models need",
    order=2,
    options=f"""
--half-width NATS  of the interval of a mean difference, at which to stop
--pool {one_of(POOLS)}  the cells that share a noise: all, those of a model, of a budget, or
    none with another (default: the first of these whose variances do not differ at 10 %%)
--pilot SEEDS  only the first so many seeds of a cell tell the noise (Stein's two-stage rule): give
    the number that the needed seeds were planned from (default: all seeds)
""",
    requires=("half_width",),
    read=lambda options: load_runs(options, options.source, needs=("budget", "seed")),
    compute=_compute,
)
