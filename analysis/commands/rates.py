"""Find the best learning rate of each cell, and its law."""

from functools import partial

import pandas as pd

from analysis.arguments import NOISE
from analysis.command import Command, Options, Output, load_runs
from analysis.figures.rate_curves import draw_rate_curves
from analysis.figures.rates import draw_rates
from analysis.options import given, one_of
from analysis.rates.curves import METHODS, NEAREST
from analysis.rates.fit import BATCH, HORIZONS, WIDTHS, fit_rates
from analysis.rates.moves import compare_rates


def _check(options: Options) -> None:
    if options.baseline and not options.used:
        raise ValueError(
            f"--baseline {options.baseline} is of the differences of --used; give --used PATH too"
        )


def _read(options: Options) -> pd.DataFrame:
    by_batch = options.batch is not None  # else the lowest loss over batches counts
    return load_runs(options, keep=[BATCH], needs=("lr",), by_cell=not by_batch)


def _compute(options: Options, table: pd.DataFrame) -> Output:
    found = fit_rates(table, **given(options, fit_rates))
    values, text = found.to_dict(), found.summary()
    if options.used:
        used = load_runs(options, options.used, needs=("lr",))
        moves = compare_rates(found, used, baseline=options.baseline)
        values["moves"], text = moves.to_dict(), f"{text}\n\n{moves.summary()}"
    drawings = {
        "rates": partial(draw_rates, found),
        "rate_curves": partial(draw_rate_curves, found),
    }
    return Output(values=values, text=text, figures=drawings)


COMMAND = Command(
    options=f"""{NOISE}
--width {one_of(WIDTHS)}  the size in the law (default: d_model, else parameters)
--horizon={HORIZONS[0]} {one_of(HORIZONS)}  the length in it (%(default)s)
--batch COLUMN  the batch in it, each a cell of its own (default: batch_tokens of records; of other
    tables the lowest loss of a rate counts)
--method={METHODS[0]} {one_of(METHODS)}  curves of the loss: skewed ones of a shape that a series
    shares, or parabolas (%(default)s)
--n-nearest N  fit the N rates nearest to the best (default: those that the curves describe, of
    parabolas {NEAREST})
--used PATH  a sweep or table whose differences are checked: how far each moves at best rates
--baseline BASELINE  check differences from this model alone (default: all)
""",
    check=_check,
    read=_read,
    compute=_compute,
)
