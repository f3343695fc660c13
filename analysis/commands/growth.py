"""Share that growing gains of what more experts throughout would."""

import sys
from functools import partial

import pandas as pd

from analysis.command import Command, Options, Output, load_runs
from analysis.figures.growth import draw_growth
from analysis.growth import COLUMNS, compare_growth, read_curves
from analysis.options import as_typed
from experiments.records.finished import lacking_rows, rows_note


def _compute(options: Options, table: pd.DataFrame) -> Output:
    found, curves = compare_growth(table), read_curves(table, options.path)
    if note := rows_note([run_dir.name for run_dir in lacking_rows(options.path)]):
        print(f"warning: not drawn: {as_typed(note)}", file=sys.stderr)
    drawings = {"growth": partial(draw_growth, curves)} if curves else {}
    return Output.of(found, figures=drawings)


COMMAND = Command(
    help="compare runs that grew with runs of more experts throughout",
    read=lambda options: load_runs(options, keep=COLUMNS, by_cell=False),
    compute=_compute,
    by_model=True,
)
