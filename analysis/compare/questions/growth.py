"""Share that growing gains of what more experts throughout would."""

import sys
from functools import partial

import pandas as pd

from analysis.command import Options, Output, load_runs
from analysis.compare.answer import answered, typed
from analysis.figures.growth import draw_growth
from analysis.growth import COLUMNS, compare_growth, has_grown, read_curves
from analysis.questions import Question
from experiments.records.finished import lacking_rows, rows_note


def _compute(options: Options, table: pd.DataFrame) -> Output:
    found = compare_growth(table, **typed(options, compare_growth))
    curves = read_curves(table, options.path)
    if note := rows_note([run_dir.name for run_dir in lacking_rows(options.path)]):
        print(f"warning: not drawn: {note}", file=sys.stderr)
    drawings = {"growth": partial(draw_growth, curves)} if curves else {}
    return answered(options, found, figures=drawings)


QUESTION = Question(
    help="runs that grew, and runs of more experts throughout",
    order=2,
    suits=lambda _, runs: set(COLUMNS) <= set(runs) and bool(has_grown(runs).any()),
    read=lambda options: load_runs(options, options.source, keep=COLUMNS, by_cell=False),
    compute=_compute,
    by_model=True,
)
