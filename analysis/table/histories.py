"""Histories beside a sweep's records: the rows of each run's training."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from experiments.records.files import HISTORY_NAME
from experiments.records.finished import lacking_rows
from experiments.system.regular_files import MOST, regular


def history_paths(folder: Path) -> dict[str, Path]:
    """Each history.csv below a folder, by run id; without those that lack rows."""
    paths = {path.parent.name: path for path in folder.rglob(HISTORY_NAME)}
    for run_dir in lacking_rows(folder):
        paths.pop(run_dir.name, None)
    return paths


def read_history(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """Columns of a history.csv. Raises ValueError for what is no table of finite numbers."""
    try:
        read = pd.read_csv(regular(path, MOST), usecols=list(columns), dtype=float)
    except ValueError as error:
        why = str(error).splitlines()[0]
    else:
        if np.isfinite(read).all(axis=None):
            return read
        why = "a number is not finite"
    raise ValueError(
        f"{path} is damaged ({why}); put a copy of it back, or delete it: the command that started "
        "the sweep, or retry, writes it from last.ckpt"
    )
