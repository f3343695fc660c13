"""Rows that are one run: checkpoints of it, or branches of its trunk.

Records of branches name their trunk, and so does a table with a column of that name. Such runs
share their seed, their text and most of their steps, and so their noise: bootstraps draw trunks.
"""

import pandas as pd

from analysis.settings import setting

TRUNK = "trunk"
_NAMES = ("run_id", "run_name", "name", "run", TRUNK)


def fill_trunks(table: pd.DataFrame) -> None:
    """Makes each run without a trunk one of its own, in place, where others have one."""
    if TRUNK in table:
        own = table["run_id"].astype(object).where(table["run_id"].notna(), table.index)
        table[TRUNK] = table[TRUNK].astype(object).where(table[TRUNK].notna(), own)


def shared_trunk(table: pd.DataFrame) -> str | None:
    """Column to draw runs by: "trunk", where several that are done have one; else None.

    A column of that name whose values are of several sizes says something else.
    """
    if TRUNK not in table:
        return None
    done = table[table["status"] == "done"]
    of_one_size = done.groupby(TRUNK)[_sizes(done)].nunique().le(1).all(axis=None)
    return TRUNK if of_one_size and done[TRUNK].duplicated().any() else None


def trunks_note(table: pd.DataFrame) -> str | None:
    """A line about what is drawn instead of runs; None where no trunk is shared."""
    if shared_trunk(table) is None:
        return None
    done = table.loc[table["status"] == "done", TRUNK]
    shared = done[done.duplicated(keep=False)]
    return (
        f"{len(shared)} runs are branches of {shared.nunique()} trunks, and those of one share "
        f"their noise: bootstraps draw whole trunks; {setting('cluster', 'run_id')} draws runs"
    )


def trunk_again(table: pd.DataFrame, column: str) -> pd.Series:
    """Which rows have the name and size of an earlier row and other tokens, as checkpoints do."""
    known = table[column].notna() & table["n_tokens"].notna()
    size = _sizes(table)
    again = table.duplicated([column, *size])
    same = table.duplicated([column, *size, "n_tokens"], keep=False)
    return known & again & ~same


def _sizes(table: pd.DataFrame) -> list[str]:
    return [name for name in ("n_params", "n_active_params") if table[name].notna().any()]


def find_trunks(table: pd.DataFrame) -> str | None:
    """Warning for a table in which several rows are of one run; None if there are none."""
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
                f"intervals take them as runs of their own and are too narrow; "
                f"{setting('cluster', column)} draws whole runs"
            )
    return None
