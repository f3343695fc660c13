"""Cost of other sizes than the best, budget by budget."""

import pandas as pd

from analysis.arguments import CURVES, NOISE
from analysis.command import Command, Options, Output, load_runs
from analysis.flatness import WITHIN, flatness
from analysis.isoflop.fit import fit_isoflop
from analysis.options import given


def _compute(options: Options, table: pd.DataFrame) -> Output:
    fit = fit_isoflop(table, **given(options, fit_isoflop))
    return Output.of(flatness(fit, **given(options, flatness)), fit.moved)


COMMAND = Command(
    help="say what other sizes than the best cost, budget by budget",
    options=f"""{CURVES}{NOISE}
--within={WITHIN} NATS  give the sizes that cost this much (%(default)s)
--within-compute SHARE  give those that cost as much as this share of compute, e.g. 0.05
--baseline BASELINE  the model whose best loss the sizes are compared with
""",
    read=lambda options: load_runs(options, needs=("budget", options.x)),
    compute=_compute,
)
