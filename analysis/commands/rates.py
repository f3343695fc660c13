"""The best learning rate of each cell, and the law it follows."""

import argparse
from functools import partial

import pandas as pd

from analysis.arguments import add_noise
from analysis.command import Command, Options, Output, table_of
from analysis.figures.rate_curves import draw_rate_curves
from analysis.figures.rates import draw_rates
from analysis.rates.curves import METHODS, NEAREST
from analysis.rates.fit import BATCH, HORIZONS, WIDTHS, fit_rates
from analysis.rates.moves import compare_rates


def _options(sub: argparse.ArgumentParser) -> None:
    add_noise(sub)
    sub.add_argument(
        "--width", choices=WIDTHS, help="the size in the law (default: d_model, else parameters)"
    )
    sub.add_argument(
        "--horizon", default=HORIZONS[0], choices=HORIZONS, help="the length in it (%(default)s)"
    )
    sub.add_argument(
        "--batch",
        metavar="COLUMN",
        help="the batch in it, each a cell of its own (default: batch_tokens of records; of other "
        "tables the lowest loss of a rate counts)",
    )
    sub.add_argument(
        "--method",
        default=METHODS[0],
        choices=METHODS,
        help="curves of the loss: skewed ones of a shape that a series shares, or parabolas "
        "(%(default)s)",
    )
    sub.add_argument(
        "--n-nearest",
        type=int,
        metavar="N",
        help="fit the N rates nearest to the best (default: those that the curves describe, of "
        f"parabolas {NEAREST})",
    )
    sub.add_argument(
        "--used",
        metavar="PATH",
        help="a sweep or table whose differences are checked: how far each moves at best rates",
    )
    sub.add_argument("--baseline", help="check differences from this model alone (default: all)")


def _check(options: Options) -> None:
    if options.baseline and not options.used:
        raise ValueError(
            f"--baseline {options.baseline} is of the differences of --used; give --used PATH too"
        )


def _read(options: Options) -> pd.DataFrame:
    by_batch = options.batch is not None  # else the lowest loss over batches counts
    return table_of(options, keep=[BATCH], needs=("lr",), by_cell=not by_batch)


def _compute(options: Options, table: pd.DataFrame) -> Output:
    found = fit_rates(
        table,
        width=options.width,
        horizon=options.horizon,
        batch=options.batch,
        method=options.method,
        n_nearest=options.n_nearest,
        noise=options.noise,
    )
    values, text = found.to_dict(), found.summary()
    if options.used:
        used = table_of(options, options.used, needs=("lr",))
        moves = compare_rates(found, used, baseline=options.baseline)
        values["moves"], text = moves.to_dict(), f"{text}\n\n{moves.summary()}"
    drawings = {
        "rates": partial(draw_rates, found),
        "rate_curves": partial(draw_rate_curves, found),
    }
    return Output(values=values, text=text, figures=drawings)


COMMAND = Command(
    help="find the best learning rate of each cell, and its law",
    options=_options,
    check=_check,
    read=_read,
    compute=_compute,
)
