"""Rows that a law is fitted to: the best run of each cell, and no run of another kind merged in.

Of runs that differ in what is tuned (the learning rate, another number) the best counts, and seeds
are averaged. But runs that differ in a variable of the law, or in a text (a router, a corpus), or
in nothing that the table has, are each a row: the lowest of them would be of the luckiest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.text import pluralize
from analysis.settings import setting
from analysis.table.cells import best_of_cells
from analysis.table.checks import finished
from analysis.table.merged import (
    find_merged,
    find_settings,
    follows_rate_or_seed,
    is_text,
    varying_cells,
)

_REPLICATE = "_replicate"
_CELL = ("series", "budget", "n_tokens", "n_params", "n_active_params", "n_non_embedding_params")
_DIGITS = 3  # of a variable that is known by division, e.g. unique tokens


class Rows(NamedTuple):
    """cells: as best_of_cells; warnings: what they mix, and what is merged in them."""

    cells: pd.DataFrame
    warnings: tuple[str, ...]


def rows_apart(
    table: pd.DataFrame, by: Sequence[str], variables: Sequence[str] = (), kinds: bool = True
) -> Rows:
    """Best run of each cell, that is of each combination of values of `by`, of the law's variables
    that the table has, of texts and of runs that nothing distinguishes. kinds: whether texts count.
    """
    table = table.reset_index(drop=True)
    done = finished(table)
    keys = {
        f"_{name}": _rounded(table[name])
        for name in variables
        if name in table and name not in by and done[name].notna().any()
    }
    work = table.assign(**keys)
    by = [*by, *keys]
    settings = find_settings(work.loc[done.index], [*by, *variables])
    cell = work.groupby(by, dropna=False, sort=False).ngroup()[done.index]
    texts = [
        name
        for name, values in settings.items()
        if kinds
        and is_text(done[name])
        and name not in ("model", "sweep")
        and varying_cells(values, cell, cell)
        and not follows_rate_or_seed(done, values)
    ]
    numbers = [name for name in settings if not is_text(done[name])]
    work[_REPLICATE] = _replicates(work, [*by, *texts], numbers)
    apart = [*by, *texts, _REPLICATE]
    cells = best_of_cells(work, by=apart)
    merged = find_merged(work, [name for name in apart if name not in _CELL])
    found = [] if merged is None else [merged.text]
    if texts:
        found.append(
            f"runs that differ in {', '.join(texts)} are of one law here, each a row; "
            f"{setting('series', texts)} fits each apart"
        )
    again = int((work.loc[done.index, _REPLICATE] > 0).sum())
    if again:
        found.append(
            f"{pluralize(again, 'run')} that no column tells from others: each is a row, as of "
            "another seed"
        )
    return Rows(cells=cells.drop(columns=[*keys, _REPLICATE]), warnings=tuple(found))


def _rounded(values: pd.Series) -> pd.Series:
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale = 10.0 ** (np.floor(np.log10(np.abs(numbers))) - _DIGITS + 1)
    rounded = np.where(numbers == 0, 0.0, np.round(numbers / scale) * scale)
    return pd.Series(rounded, values.index)


def _replicates(table: pd.DataFrame, by: Sequence[str], numbers: Sequence[str]) -> pd.Series:
    """Number of each run among those of its cell, of unknown seed, that agree in all of `numbers`;
    0 where several learning rates were tried, whose best counts.
    """
    count = table.groupby([*by, *numbers], dropna=False, sort=False).cumcount()
    unknown = table["seed"].isna() & (table["status"] == "done")
    rates = table.groupby(list(by), dropna=False)["lr"].transform("nunique")
    return count.where(unknown & (rates <= 1), 0)
