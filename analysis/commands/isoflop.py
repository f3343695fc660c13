"""Fit and draw isoFLOP curves and their power laws."""

from functools import partial

import pandas as pd

from analysis.arguments import CLUSTER, CURVES, NOISE
from analysis.command import Command, Options, Output, load_runs
from analysis.figures.isoflop import draw_isoflop
from analysis.isoflop.brief import brief
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.methods import OUTLIERS
from analysis.isoflop.offsets import at_budgets
from analysis.options import given, one_of
from analysis.report.perplexities import perplexities
from analysis.table.merged import find_merged


def _compute(options: Options, table: pd.DataFrame) -> Output:
    level = at_budgets(table, options.x).table
    fit = fit_isoflop(table, **given(options, fit_isoflop))
    merged = find_merged(table)
    done = [*([merged.how] if merged else []), *fit.moved]
    said = f" ({'; '.join(done)})" if done else ""
    if options.brief:
        text = f"Minima of the fitted curves{said}:\n{brief(fit)}"
    else:
        text = f"{perplexities(level)}\n\nFitted minima{said}:\n{fit.summary()}"
    return Output(
        values=fit.to_dict(),
        text=text,
        figures={"isoflop": partial(draw_isoflop, level, fit)},
        tables={"table": table},
    )


COMMAND = Command(
    options=f"""{CURVES}{NOISE}{CLUSTER}
--outliers=exclude {one_of(OUTLIERS)}  what is done about runs that a model's others do not expect,
    by method slice; they are named either way (%(default)s)
--brief  print a line a curve, without losses and laws
""",
    read=lambda options: load_runs(options, needs=("budget", options.x)),
    compute=_compute,
)
