"""Whether a run can still come near the best finished run of its cell: trainer.stop_hopeless.

The comparison is step by step with that run, which has the same steps and schedule. From here to
the end it lost `rest`; this one is given _MORE times as much, and two standard errors of noise. So
no law of the curve is fitted, and few assumptions are made: docs/sweeps.md has how often it errs.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.records.files import HISTORY_NAME, DamagedError, find_records, read_record
from experiments.records.record import RunRecord
from experiments.system.regular_files import read_regular_text

LOOKS = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)  # of the run's steps
_WINDOW = 0.05  # of the run's steps: a loss is their mean
_MORE = 1.5  # times what the best run still loses
_FEWEST = 5  # rows of a window, which is longer where these are
_SAME = ("model", "n_layers", "d_model", "n_experts", "budget", "n_steps", "batch_tokens")
_SAME_CONFIG = ("data", "init", "continual")
_SAME_OPTIM = (
    "schedule", "warmup", "decay", "final_lr", "warmup_tokens", "decay_tokens", "decay_shape",
    "trunk_power",
)  # fmt: skip

Row = tuple[float, float]  # step, loss


class Hopeless:
    """Looks at some steps of a run whether its end can be within `within` nats of its cell's best.

    The cell are the finished runs of its sweep with the same model, size, budget, data, weights to
    start from and schedule: learning rates, seeds and settings of the layer may differ.
    """

    def __init__(self, folder: Path, own: RunRecord, within: float) -> None:
        """folder: the sweep's. own: the run's record as planned."""
        self._folder, self._own, self._within = folder, own, within
        self._looks = [math.ceil(share * own.n_steps) for share in LOOKS]
        self.why: str | None = None  # it is hopeless

    def look(self, rows: Sequence[Row]) -> bool:
        """Whether the run is hopeless, by its rows so far; looks where a step of LOOKS has come."""
        step, before = rows[-1][0], rows[-2][0] if len(rows) > 1 else 0.0
        if step < self._own.n_steps and any(before < at <= step for at in self._looks):
            best = best_of_cell(self._folder, self._own)
            self.why = None if best is None else compare(rows, *best, within=self._within)
        return self.why is not None


def best_of_cell(folder: Path, own: RunRecord) -> tuple[list[Row], RunRecord] | None:
    """Rows and the record of the finished run with the lowest training loss, if any is."""
    found = []
    for path in find_records(folder):
        try:
            record = read_record(path)
        except (DamagedError, FileNotFoundError):
            continue
        if record.run_id == own.run_id or record.train_loss is None or not _alike(record, own):
            continue
        rows = find_rows(path.parent)
        if rows and rows[-1][0] == record.n_steps:
            found.append((record.train_loss, record.run_id, rows, record))
    return min(found)[2:] if found else None


def _alike(record: RunRecord, own: RunRecord) -> bool:
    same = all(getattr(record, name) == getattr(own, name) for name in _SAME)
    config, mine = record.config, own.config
    same = same and all(config.get(name) == mine.get(name) for name in _SAME_CONFIG)
    optim, own_optim = _group(config, "optim"), _group(mine, "optim")
    same = same and all(optim.get(name) == own_optim.get(name) for name in _SAME_OPTIM)
    return same and record.status == "done" and not record.is_trunk


def _group(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def find_rows(run_dir: Path) -> list[Row]:
    """Those of a run's history; [] for one that is not there or damaged."""
    try:
        lines = read_regular_text(run_dir / HISTORY_NAME).splitlines()
        rows = [(float(row["step"]), float(row["loss"])) for row in csv.DictReader(lines)]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return rows if all(map(math.isfinite, (loss for _, loss in rows))) else []


def compare(
    rows: Sequence[Row], best: Sequence[Row], record: RunRecord, *, within: float
) -> str | None:
    """Why a run with these rows can't come within `within` nats of the run `best`; None if it may.

    Each loss is the mean of the rows of a twentieth of the run's steps, up to a step; of five rows
    at least.
    """
    step, length = rows[-1][0], _WINDOW * record.n_steps
    now, sd = _mean(rows, step, length)
    there, sd_there = _mean(best, step, length)
    end, _ = _mean(best, record.n_steps, length)
    rest = max(0.0, there - end)
    lowest = now - _MORE * rest - 2 * math.hypot(sd, sd_there)
    if not lowest > end + within:
        return None
    return (
        f"stopped at step {step:g}: its training loss is {now:.3f}, that of {record.run_id} was "
        f"{there:.3f} and ended at {end:.3f}; even with {_MORE:g} times its fall it ends above "
        f"{lowest:.3f}, more than trainer.stop_hopeless={within:g} behind"
    )


def _mean(rows: Sequence[Row], step: float, length: float) -> tuple[float, float]:
    """Mean loss of the rows in a window up to a step, and its standard error by differences of
    neighbours, which a trend does not widen; nan where there are too few rows.
    """
    so_far = [(s, loss) for s, loss in rows if s <= step]
    n = max(_FEWEST, sum(s > step - length for s, _ in so_far))
    losses = np.array([loss for _, loss in so_far[-n:]])
    if len(losses) < _FEWEST:
        return math.nan, math.nan
    sd = float(np.sqrt(np.mean(np.diff(losses) ** 2) / 2))
    return float(losses.mean()), sd / math.sqrt(len(losses))
