"""Records of a sweep as one checked pandas table, one row a run."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.records import find_records, read_record

COUNTS = (
    "n_layers",
    "d_model",
    "n_params",
    "n_active_params",
    "n_non_embedding_params",
    "n_tokens",
)
COLUMNS = (
    "model",
    "n_experts",
    "budget",
    *COUNTS,
    "n_steps",
    "flops_per_token",
    "achieved_flops",
    "lr",
    "seed",
    "status",
    "train_loss",
    "val_loss",
    "perplexity",
    "bits_per_byte",
    "usage",
    "unevenness",
    "causal_eval",
    "epochs",
    "tokens_per_second",
    "flops_per_second",
    "mfu",
    "wall_seconds",
    "peak_memory_bytes",
    "run_id",
    "sweep",
)


def load_table(path: str | Path) -> pd.DataFrame:
    """The runs below a folder, sorted by budget, model and size; failed runs are kept.

    Columns and units are those of experiments.records.RunRecord: FLOPs, counts, nats/token.
    Raises ValueError if there is no record, or naming the run and column that are out of range.
    """
    folder = Path(path)
    paths = list(find_records(folder)) if folder.is_dir() else []
    if not paths:
        raise ValueError(
            f"no record.json below {folder}; run a sweep first, e.g. "
            "python -m experiments.run experiment=demo"
        )
    rows = [asdict(read_record(p)) for p in paths]
    table = pd.DataFrame([{name: row[name] for name in COLUMNS} for row in rows])
    table["n_experts"] = table["n_experts"].astype("Int64")
    check_table(table)
    order = ["budget", "model", "n_layers", "n_experts", "seed"]
    return table.sort_values(order, kind="stable").reset_index(drop=True)


def check_table(table: pd.DataFrame) -> None:
    """Raises ValueError naming the first run and column whose value can't be."""
    done = table["status"] == "done"
    for name in ("budget", "flops_per_token", *COUNTS):
        _refuse(table, name, ~(table[name] > 0), "must be above 0")
    loss = table["val_loss"].astype(float)
    _refuse(table, "val_loss", done & ~(np.isfinite(loss) & (loss > 0)), "must be above 0 if done")
    _refuse(
        table,
        "n_active_params",
        table["n_active_params"] > table["n_params"],
        "must not exceed n_params",
    )
    _refuse(
        table, "run_id", table["run_id"].duplicated(), "is there twice: two sweeps in one folder?"
    )


def _refuse(table: pd.DataFrame, column: str, bad: pd.Series, rule: str) -> None:
    if bad.any():
        row = table[bad].iloc[0]
        raise ValueError(f"run {row['run_id']}: {column}={row[column]!r} {rule}")
