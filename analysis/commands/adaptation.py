"""Gains on their domain of runs that started from weights, and losses on other text."""

from functools import partial

import pandas as pd

from analysis.adaptation import columns_of_starts, compare_adaptations
from analysis.command import Command, Options, Output, load_runs
from analysis.figures.adaptation import draw_adaptation
from analysis.options import pairs


def _check(options: Options) -> None:
    if unit := pairs("unit", options.unit).get("loss"):
        raise ValueError(
            f"--unit loss={unit} is of one column, and adaptation compares losses of several "
            "texts, before and after: give all of them in nats/token"
        )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    found = compare_adaptations(table, options.general)
    return Output.of(found, figures={"adaptation": partial(draw_adaptation, found)})


COMMAND = Command(
    help="compare ways to adapt a model to a domain",
    options="""
--general=wikitext2 SET  the set that stands for other text (%(default)s)
""",
    check=_check,
    read=lambda options: load_runs(options, keep=columns_of_starts(options.general), by_cell=False),
    compute=_compute,
    by_model=True,
)
