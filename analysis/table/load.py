"""Runs as one checked pandas table, a row a run, whatever they come from."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.fitting.text import join_first, pluralize
from analysis.settings import setting
from analysis.table.budgets import COUNTED, TOLERANCE, join_budgets
from analysis.table.cells import best_of_cells
from analysis.table.checks import (
    check_amounts,
    check_runs,
    check_unique,
    finished,
    require,
)
from analysis.table.columns import COLUMNS, cast_columns, pick_columns
from analysis.table.configs import explain_merged, with_settings
from analysis.table.layer import PREFIX, find_column, with_own_names
from analysis.table.merged import find_merged
from analysis.table.mixed_units import mixed_units
from analysis.table.series import merge_sizes, named_by, variants
from analysis.table.sources import Source, read_source
from analysis.table.trunks import TRUNK, fill_trunks
from analysis.table.units import apply_units, parse_unit
from analysis.table.wandb_export import bare_key, from_wandb, with_states

__all__ = [
    "COLUMNS",
    "best_of_cells",
    "check_table",
    "finished",
    "keep_rows",
    "load_table",
    "require",
    "rows_with",
]

_LISTED = 12  # values that a message lists
_ORDER = ["budget", "model", "n_layers", "n_experts", "seed"]


def load_table(
    path: str | Path | Source,
    *,
    columns: Mapping[str, str] | None = None,
    flops: str | None = None,
    where: Mapping[str, Sequence[str]] | None = None,
    keep: Sequence[str] = (),
    units: Mapping[str, str] | None = None,
    series: Sequence[str] | None = None,
    separator: str | None = None,
    budgets: Sequence[float] | None = None,
    budget_tolerance: float | None = None,
    needs: Sequence[str] = (),
) -> pd.DataFrame:
    """Checked table of a sweep's folder, a CSV or Parquet file, or a CSV exported from W&B; or
    of what read_source read of one.

    where is keep_rows', separator read_source's, the others check_table's. keep: fields of records
    to keep beside COLUMNS, e.g. init.how; of a folder series and where may name keys of configs.
    budget_tolerance: by default check_table's; 0 of a folder, whose budgets were planned.
    Raises ValueError naming the file, or the row and column.
    """
    source = path if isinstance(path, Source) else read_source(path, separator)
    if budget_tolerance is None:
        budget_tolerance = 0.0 if source.records and budgets is None else TOLERANCE
    frame = source.frame
    if source.records:
        frame = with_settings(frame, source.records, [*(series or ()), *(where or ())])
    table = check_table(
        frame,
        columns=columns,
        flops=flops,
        units=units,
        series=series,
        budgets=budgets,
        budget_tolerance=budget_tolerance,
        needs=needs,
    )
    if source.records:  # a record's other fields were there for `columns` to name
        kept = {*COLUMNS, COUNTED, TRUNK, *keep, *(series or ()), *(where or ())}
        table = table[[c for c in map(str, table) if c in kept or c.startswith(("given_", PREFIX))]]
        table = _with_warnings(explain_merged(table, source.records))
    return keep_rows(table, where) if where else table


def keep_rows(table: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Runs whose column has one of these values, as text, for every column of `where`.

    {"query_norm": ["batch"], "budget": ["3e12", "1e13"]}; "" is NA. A setting of the layer is named
    with or without "layer." before it. series are named by what still
    varies, unless the table gave them. Raises ValueError for a column that is not there, and a
    value that no run has, with those there are.
    """
    return _with_warnings(rows_with(table, where))


def rows_with(table: pd.DataFrame, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """keep_rows, but for attrs["warnings"], which take longer to find than the rows."""
    named = table["series"].equals(variants(table).astype(str))
    for given, values in where.items():
        name = find_column(table, given)
        if name not in table:
            raise ValueError(
                f"{setting('where')}: {name!r} is no column; found {', '.join(map(str, table))}"
            )
        column = table[name]
        keep = pd.Series(False, index=table.index)
        for value in values:
            has = has_value(column, value)
            if not has.any():
                have = sorted({"" if pd.isna(v) else f"{v}" for v in column})
                raise ValueError(
                    f"{setting('where')}: no run has {name}={value}; they have "
                    f"{join_first(have, _LISTED)}"
                )
            keep |= has
        table = table[keep]
    table = table.reset_index(drop=True)
    return table.assign(series=variants(table).astype(str)) if named else table


def has_value(column: pd.Series, value: str) -> pd.Series:
    """Whether each row has the value, as `where` reads one. Raises ValueError for no number where
    numbers are.
    """
    if value == "":
        return column.isna()
    if not pd.api.types.is_numeric_dtype(column):
        return (column == value).fillna(False).astype(bool)
    try:
        number = float(value)
    except ValueError:
        raise ValueError(f"{setting('where')}: {column.name}={value!r} is not a number") from None
    return (column.astype("float64") == number).fillna(False)


def _with_warnings(table: pd.DataFrame) -> pd.DataFrame:
    """Table with those of attrs["warnings"] that its rows have, and no others."""
    merged = find_merged(table)
    table.attrs["merged"] = () if merged is None else (merged.text,)
    table.attrs["warnings"] = (*table.attrs["merged"], *mixed_units(table))
    return table


def check_table(
    frame: pd.DataFrame,
    columns: Mapping[str, str] | None = None,
    flops: str | None = None,
    *,
    units: Mapping[str, str] | None = None,
    series: Sequence[str] | None = None,
    budgets: Sequence[float] | None = None,
    budget_tolerance: float = TOLERANCE,
    needs: Sequence[str] = (),
) -> pd.DataFrame:
    """COLUMNS, then the frame's others, sorted by budget, model and size; failed runs are kept.

    Units: FLOPs of training, plain counts, nats/token. loss and n_params or n_active_params must
    be there; other columns that are absent are derived where they can be, or NA.
    table.attrs["notes"], a tuple of str, says what was derived, taken for granted or left out; of
    these table.attrs["damaged"] is the one on records that can't be read, if there are any, and
    attrs["left_out"] the one on runs that belong to none of the budgets.
    attrs["warnings"]: rows in another unit than others (mixed_units.py), and cells with runs that
    neither seed nor learning rate explains, which attrs["merged"] has too. Results of the table
    take them on (warned.py).
    columns: our name -> the frame's, e.g. {"n_params": "N"}; common aliases are known.
    units: our name -> its unit, e.g. {"budget": "GFLOP"}; units in names are known.
    series: the columns whose values name a series; [] makes all runs one. By default it is the
    model, with the settings of its layer that vary.
    budgets, budget_tolerance: join_budgets', where each run counted its own.
    needs: columns that must be there or be derived, for a message that names all that are absent.
    flops: "6nd" takes budget = 6 n_active_params n_tokens where one of them is unknown; that is
    wrong where attention or the vocabulary dominates.
    Raises ValueError naming the row, column, value and remedy.
    """
    if flops not in (None, "6nd"):
        raise ValueError(f"{setting('flops', flops)} is not '6nd' or None")
    if frame.columns.has_duplicates:
        twice = sorted({str(name) for name in frame.columns[frame.columns.duplicated()]})
        raise ValueError(f"columns occur twice: {', '.join(twice)}; rename or drop one")
    if frame.empty:
        raise ValueError("the table has no rows")
    damaged = [line] if (line := frame.attrs.get("damaged")) else []
    notes = [*frame.attrs.get("notes", ()), *damaged]
    raw = with_own_names(from_wandb(_named_rows(frame), notes))
    chosen = {
        name: given if given in raw else bare_key(given) for name, given in (columns or {}).items()
    }
    status = chosen.get("status")
    if status is not None and status in raw:
        raw = with_states(raw, status, notes)
    if raw.empty:
        raise ValueError(f"no row is left: {'; '.join(notes)}")
    if series is not None and "series" in chosen:
        both = setting("series", [*series]), setting("columns", {"series": chosen["series"]})
        raise ValueError(f"{both[0]} and {both[1]} both name the series; give one")
    parsed = {name: parse_unit(name, unit) for name, unit in (units or {}).items()}
    picked = pick_columns(raw, chosen, notes, units=parsed, needs=needs, flops=flops)
    table = _without_copies(cast_columns(picked.frame), notes)
    table = apply_units(table, picked.units, notes)
    check_amounts(table)
    _derive(table, flops, notes)
    check_unique(table, picked.names)
    _derive_unique(table)
    check_runs(table)
    _note_hopeless(table, notes)
    table, left_out = join_budgets(table, notes, budgets=budgets, tolerance=budget_tolerance)
    if left_out:
        notes.append(left_out)
    table = merge_sizes(table, notes)
    fill_trunks(table)
    table["series"] = _series(table, raw, chosen, series, notes)
    table = table.astype(dict.fromkeys(("series", "model", "status"), str))  # never NA
    table = table.sort_values(_ORDER, kind="stable").reset_index(drop=True)
    table.attrs["notes"] = tuple(dict.fromkeys(notes))
    if damaged:
        table.attrs["damaged"] = damaged[0]
    if left_out:
        table.attrs["left_out"] = left_out
    return _with_warnings(table)


def _series(
    table: pd.DataFrame,
    raw: pd.DataFrame,
    chosen: Mapping[str, str],
    names: Sequence[str] | None,
    notes: list[str],
) -> pd.Series:
    """A name for each run: by columns that were asked for, as given in one, or by its model."""
    if names is not None:
        return named_by(table, raw, names)
    own = variants(table)
    given = raw["series"].astype("string")[table.index] if "series" in raw else own
    if "series" not in chosen and (given != own).any():
        kept = setting("columns", {"series": "series"})
        notes.append(f"series were renamed; {kept} keeps the given")
    return table["series"].where(table["series"].notna(), own)


def _named_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """With what errors call a row as its index, and str as columns."""
    index = frame.index if frame.index.is_unique else pd.RangeIndex(len(frame))
    names = [name if isinstance(name, str) else f"row {name}" for name in index]
    return frame.set_axis(names, axis=0).set_axis(frame.columns.astype(str), axis=1)


def _without_copies(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    values = table.drop(columns="run_id")
    nested = [name for name in values if values[name].dtype == object]  # lists have no hash
    copies = values.astype(dict.fromkeys(nested, str)).duplicated()
    if copies.any():
        first = table.index[int(copies.to_numpy().argmax())]
        notes.append(f"left out: {copies.sum()} exact copies of other rows, e.g. {first}")
    return table[~copies].copy()


def _derive(table: pd.DataFrame, flops: str | None, notes: list[str]) -> None:
    """Fills what is absent, in place, with a note for each thing taken for granted."""
    unknown = table["status"].isna()
    if unknown.any():
        finite = np.isfinite(table["loss"])
        table.loc[unknown, "status"] = np.where(finite[unknown], "done", "failed")
        notes.append(
            f"{unknown.sum()} rows have no status: {(unknown & finite).sum()} with a finite loss "
            f"are taken as done, {(unknown & ~finite).sum()} without as failed"
        )
    with np.errstate(over="ignore"):  # of a loss that check_runs refuses, or of a diverged run
        table["perplexity"] = table["perplexity"].fillna(np.exp(table["loss"]))
    _derive_active(table, notes)
    per_token = table["flops_per_token"]
    _fill(table, "n_tokens", table["budget"] / per_token, "budget / flops_per_token", notes)
    _fill(table, "budget", table["n_tokens"] * per_token, "n_tokens * flops_per_token", notes)
    if flops == "6nd":
        n, caveat = 6 * table["n_active_params"], "wrong where attention or vocabulary dominates"
        how = f"{{}}, as {setting('flops', flops)} asks: {caveat}"
        budget, n_tokens = table["budget"], table["n_tokens"]
        _fill(table, "n_tokens", budget / n, how.format("budget / (6 n_active_params)"), notes)
        _fill(table, "budget", n_tokens * n, how.format("6 n_active_params n_tokens"), notes)


def _derive_unique(table: pd.DataFrame) -> None:
    """Fills passes over the data and unique tokens from each other, in place."""
    epochs, tokens = table["epochs"], table["n_tokens"]
    unique = table["unique_tokens"].fillna(tokens / epochs.clip(lower=1.0))
    table["unique_tokens"] = unique.clip(upper=tokens)
    table["epochs"] = epochs.fillna(tokens / table["unique_tokens"])


def _note_hopeless(table: pd.DataFrame, notes: list[str]) -> None:
    """Names the runs that were stopped as hopeless: they are excluded as failed ones are."""
    stopped = table[table["status"] == "hopeless"]
    if len(stopped):
        names = [name if isinstance(name, str) else str(i) for i, name in stopped["run_id"].items()]
        notes.append(
            f"{pluralize(len(stopped), 'run')} stopped as hopeless, excluded: {join_first(names)}"
        )


def _derive_active(table: pd.DataFrame, notes: list[str]) -> None:
    experts = table["n_experts"]
    dense = (experts.isna() & table["top_k"].isna()) | (experts == 1).fillna(False)
    _fill(
        table,
        "n_active_params",
        table["n_params"].where(dense),
        "n_params, for n_experts is NA or 1: taken as dense",
        notes,
    )
    unknown = table["n_active_params"].isna() & (table["status"] == "done")
    if unknown.any():
        models = ", ".join(sorted(table.loc[unknown, "model"].dropna().unique()))
        notes.append(f"n_active_params is unknown in {unknown.sum()} rows: {models}")


def _fill(table: pd.DataFrame, name: str, values: pd.Series, how: str, notes: list[str]) -> None:
    gaps = table[name].isna() & values.notna()
    if gaps.any():
        table.loc[gaps, name] = values[gaps]
        notes.append(f"{name} of {gaps.sum()} rows is {how}")
