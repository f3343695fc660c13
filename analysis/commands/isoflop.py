"""Minima at each budget and their laws."""

import argparse
from functools import partial

import pandas as pd

from analysis.arguments import add_cluster, add_curves, add_noise
from analysis.command import Command, Options, Output, table_of
from analysis.figures.isoflop import draw_isoflop
from analysis.isoflop.brief import brief
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.methods import OUTLIERS
from analysis.isoflop.offsets import at_budgets
from analysis.report.perplexities import perplexities
from analysis.table.merged import find_merged


def _options(sub: argparse.ArgumentParser) -> None:
    add_curves(sub)
    add_noise(sub)
    add_cluster(sub)
    sub.add_argument(
        "--outliers",
        default="exclude",
        choices=OUTLIERS,
        help="what is done about runs that a model's others do not expect, by method slice; they "
        "are named either way (%(default)s)",
    )
    sub.add_argument(
        "--brief", action="store_true", help="print a line a curve, without losses and laws"
    )


def _compute(options: Options, table: pd.DataFrame) -> Output:
    level = at_budgets(table, options.x).table
    how = {"noise": options.noise, "cluster": options.cluster, "outliers": options.outliers}
    fit = fit_isoflop(table, options.x, options.method, options.n_nearest, **how)
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
    help="fit and draw isoFLOP curves and their power laws",
    options=_options,
    read=lambda options: table_of(options, needs=("budget", options.x)),
    compute=_compute,
)
