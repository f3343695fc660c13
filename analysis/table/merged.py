"""Cells whose several runs are neither seeds nor learning rates: which column they differ in."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis.fitting.text import pluralize
from analysis.settings import setting
from analysis.table.layer import list_settings

# What a run found or cost, and names of runs: no settings
_RESULTS = (
    "loss", "train_loss", "perplexity", "bits_per_byte", "usage", "unevenness",
    "tokens_per_second", "flops_per_second", "mfu", "wall_seconds", "peak_memory_bytes",
    "achieved_flops", "run_id", "status", "series", "seed", "lr",
)  # fmt: skip
_NAMES = {
    "name", "id", "run", "run_name", "created", "updated", "runtime", "timestamp", "date", "time",
    "notes", "tags", "user", "host", "hostname", "url", "state", "git_commit",
}  # fmt: skip
_OF_RESULTS = re.compile(  # of a number
    r"loss|ppl|perplexity|bpb|bits_per|acc(uracy)?$|score|core_|seconds|runtime|duration|memory|"
    r"norm$|_time",
    re.IGNORECASE,
)
_SIZES = ("n_params", "n_active_params", "n_non_embedding_params")
_RECUR = 2  # runs that share a value of a setting, on the average; a measurement has one each


@dataclass(frozen=True, kw_only=True)
class Merged:
    """Differences in a table's cells that seeds and learning rates do not explain.

    columns: the fewest that do, () if no column does; n_cells: with such runs, n_open: of these,
    not even by them; averaged: some have different seeds, whose mean counts; first: one of them;
    series: the columns that would make each its own series.
    """

    columns: tuple[str, ...]
    n_cells: int
    n_open: int
    averaged: bool
    first: str
    series: tuple[str, ...]

    @property
    def how(self) -> str:
        """Way that cells were merged, for a heading."""
        over = ", ".join(self.columns) or "runs that no column distinguishes"
        return f"{'mean or ' if self.averaged else ''}lowest over {over}"

    @property
    def text(self) -> str:
        """Warning, with its remedy in Python's words."""
        cells = f"{pluralize(self.n_cells, 'cell')} (e.g. {self.first})"
        has = "has" if self.n_cells == 1 else "have"
        if not self.columns:
            return (
                f"{cells} {has} several runs that seed and learning rate do not explain, nor does "
                "any other column: the lowest loss counts"
            )
        column = self.columns[0]
        mean = "the mean over seeds, or " if self.averaged else ""
        counts = f"{mean}the lowest loss counts"
        some = f" ({self.n_open} in no column)" if self.n_open else ""
        return (
            f"{cells} {has} several runs that seed and learning rate do not explain: they differ "
            f"in {', '.join(self.columns)}{some}, and {counts}; "
            f"{setting('series', list(self.series))} makes each a curve, "
            f"{setting('where', {column: ['VALUE']})} takes one"
        )


def find_merged(table: pd.DataFrame, apart: Sequence[str] = ()) -> Merged | None:
    """Merged cells of a checked table's finished runs; None where each cell is explained.

    A cell is a series, a budget (or tokens, where no budget is known), a size, and a value of each
    of the columns `apart`. Several runs of
    one learning rate in it are explained by different seeds, and runs of different learning rates
    by these, unless they differ in a text: a dataset, a router, a unit.
    """
    done = table[table["status"] == "done"].reset_index(drop=True)
    if done.empty:
        return None
    size = next((name for name in _SIZES if done[name].notna().any()), None)
    amount = "budget" if done["budget"].notna().any() else "n_tokens"
    keys = ["series", amount, *([size] if size else []), *apart]
    cell = done.groupby(keys, dropna=False, sort=False).ngroup()
    if not cell.duplicated().any():
        return None
    rate = done.assign(cell=cell).groupby(["cell", "lr"], dropna=False, sort=False).ngroup()
    settings = find_settings(done, keys)
    open_ = _unexplained(done, rate)
    left = set(cell[open_])
    averaged = False
    found = {
        name: varying_cells(values[open_], rate[open_], cell[open_])
        for name, values in settings.items()
    }
    for name, values in settings.items():
        if is_text(done[name]) and name != "sweep" and not follows_rate_or_seed(done, values):
            more = varying_cells(values, cell, cell)
            found[name] |= more
            left |= more
            averaged |= bool(varying_cells(values[~open_], rate[~open_], cell[~open_]))
    if not left:
        return None
    columns, n_open = _fewest(found, left)
    row = done[cell == min(left)].iloc[0]
    at = [f"{name}={row[name]:.4g}" for name in (amount, size) if name and pd.notna(row[name])]
    several = {
        name: done.groupby("model")[name].nunique(dropna=False).max()
        for name in list_settings(done)
    }
    own = [
        *(["model"] if done["model"].nunique() > 1 else []),
        *(n for n in several if several[n] > 1),
    ]
    return Merged(
        columns=columns,
        n_cells=len(left),
        n_open=n_open,
        averaged=averaged,
        first=" ".join([str(row["series"]), *at]),
        series=tuple(dict.fromkeys((*own, *columns))),
    )


def find_settings(done: pd.DataFrame, keys: Sequence[str]) -> dict[str, pd.Series]:
    """Columns of finished runs that vary and whose values recur, as _codes; texts first."""
    found: dict[str, pd.Series] = {}
    for name in map(str, done):
        if name in keys or name in _RESULTS or name.lower() in _NAMES:
            continue
        if not is_text(done[name]) and _OF_RESULTS.search(name):
            continue
        values = _codes(done[name])
        if 1 < values.nunique() <= len(done) / _RECUR:
            found[name] = values
    texts = {name: values for name, values in found.items() if is_text(done[name])}
    return {**texts, **found}


def _codes(values: pd.Series) -> pd.Series:
    """A number for each value, nan for none: pandas groups them many times faster than texts."""
    if is_text(values):
        values = values.astype(str).where(values.notna())  # pandas 2 makes "None" of None
    codes = pd.factorize(values)[0]
    return pd.Series(np.where(codes < 0, np.nan, codes), index=values.index)


def is_text(values: pd.Series) -> bool:
    return not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values)


def _unexplained(done: pd.DataFrame, rate: pd.Series) -> pd.Series:
    """Runs that share a cell and learning rate, and that seeds do not distinguish."""
    seeds = done["seed"]
    groups = seeds.groupby(rate)
    several = groups.transform("size") > 1
    same = groups.transform("nunique") < groups.transform("size")  # unknown seeds are not counted
    return several & same


def varying_cells(values: pd.Series, groups: pd.Series, cell: pd.Series) -> set[int]:
    """Cells in which values vary within a group."""
    grouped = values.groupby(groups)
    return set(cell[grouped.transform("max") > grouped.transform("min")])


def follows_rate_or_seed(done: pd.DataFrame, values: pd.Series) -> bool:
    """Whether a column is one with the seed or the learning rate, as a name of them."""
    return any(
        done[by].notna().all() and values.groupby(done[by]).nunique().max() == 1
        for by in ("seed", "lr")
    )


def _fewest(found: dict[str, set[int]], left: set[int]) -> tuple[tuple[str, ...], int]:
    """Columns that explain the cells, the one that explains most first; how many none does."""
    columns: list[str] = []
    todo = set(left)
    while todo:
        best = max(found, key=lambda name: len(found[name] & todo), default=None)
        if best is None or not found[best] & todo:
            break
        columns.append(best)
        todo -= found[best]
    return tuple(columns), len(todo)
