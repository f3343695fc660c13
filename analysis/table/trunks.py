"""Rows that are one run: checkpoints of it, or branches of its trunk."""

import pandas as pd

_NAMES = ("run_id", "run_name", "name", "run", "trunk")


def trunk_again(table: pd.DataFrame, column: str) -> pd.Series:
    """Which rows have the name and size of an earlier row and other tokens, as checkpoints do."""
    known = table[column].notna() & table["n_tokens"].notna()
    size = [name for name in ("n_params", "n_active_params") if table[name].notna().any()]
    again = table.duplicated([column, *size])
    same = table.duplicated([column, *size, "n_tokens"], keep=False)
    return known & again & ~same


def find_trunks(table: pd.DataFrame) -> str | None:
    """The warning for a table in which several rows are of one run; None if there are none."""
    done = table[table["status"] == "done"]
    for column in _NAMES:
        if column not in done:
            continue
        again = trunk_again(done, column)
        if again.any():
            first = done.loc[again, column].iloc[0]
            rows = int(again.sum() + done.loc[again, column].nunique())
            return (
                f"{rows} rows are checkpoints or branches of fewer runs, e.g. {column}={first}: "
                f"intervals take them as runs of their own and are too narrow; cluster={column} "
                "draws whole runs"
            )
    return None
