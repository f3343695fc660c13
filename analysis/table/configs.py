"""Settings in the configs of records, beside a table's columns: those that a sweep varied."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from analysis.table.layer import find_column
from analysis.table.merged import find_merged
from experiments.records.record import RunRecord


def with_settings(
    frame: pd.DataFrame, records: Sequence[RunRecord], names: Sequence[str]
) -> pd.DataFrame:
    """Frame, a row a record, with the keys of configs that it lacks: optim.weight_decay."""
    absent = [name for name in names if find_column(frame, name) not in frame]
    configs = [flattened(record.config) for record in records] if absent else []
    found = {
        name: pd.Series([config.get(name) for config in configs], frame.index, dtype=object)
        for name in absent
        if any(name in config for config in configs)
    }
    return frame.assign(**found).infer_objects() if found else frame


def explain_merged(table: pd.DataFrame, records: Sequence[RunRecord]) -> pd.DataFrame:
    """Table, with the keys of configs that explain its cells where no column of it does."""
    merged = find_merged(table)
    if merged is None or not merged.n_open:
        return table
    configs = {record.run_id: flattened(record.config) for record in records}
    rows = [configs.get(run_id, {}) for run_id in table["run_id"]]
    settings = pd.DataFrame(rows, index=table.index)
    # Its model is the table's
    new = [name for name in settings if name not in table and settings[name].nunique() > 1]
    found = find_merged(pd.concat([table, settings[new]], axis=1))
    named = [name for name in new if found is not None and name in found.columns]
    return table.assign(**{str(name): settings[name] for name in named})


def flattened(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Keys with dots, and lists as texts: {"optim.lr": 0.1} of {"optim": {"lr": 0.1}}."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = str(value) if isinstance(value, list | tuple) else value
    return found
