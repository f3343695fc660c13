"""Thinned learning curves of a sweep: `python -m tests.study.histories SWEEP FILE.csv`.

A row is the mean of the rows of a history.csv in one of at most 64 parts of its steps, of equal
ratios, at the last step of the part. Runs without a whole history are not in it.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.table.histories import history_paths, read_history

PARTS = 64
COLUMNS = ("run_id", "step", "n_tokens", "lr", "loss")


def thinned(history):
    """history: step, n_tokens, lr, loss of each row."""
    step = history["step"]
    edges = np.geomspace(step.iloc[0], step.iloc[-1], PARTS + 1)
    part = np.searchsorted(edges[1:-1], step)
    rows = history.groupby(part).agg({"step": "last", "n_tokens": "last", "lr": "last"})
    return rows.assign(loss=history.groupby(part)["loss"].mean().round(4)).reset_index(drop=True)


def main(sweep, file):
    found = [
        thinned(read_history(path, COLUMNS[1:])).assign(run_id=run_id)
        for run_id, path in sorted(history_paths(Path(sweep)).items())
    ]
    if not found:
        raise SystemExit(f"{sweep} has no whole history.csv")
    table = pd.concat(found)[list(COLUMNS)].astype({"step": int, "n_tokens": int})
    table.to_csv(file, index=False, float_format="%.6g")


if __name__ == "__main__":
    main(*sys.argv[1:])
