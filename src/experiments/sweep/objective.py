"""Result of a trial's runs, from their records. Standard library only."""

import math
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from experiments.records.app_record import AppRecord, Record
from experiments.records.files import RECORD_NAME, DamagedError, read_any_record, record_row
from experiments.records.record import CUT_SHORT
from experiments.system.claims import is_claimed

Direction = Literal["minimize", "maximize"]
DIRECTIONS = typing.get_args(Direction)


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One of the values that an app's run returned, or a column of the record, as files.record_row
    has it, and which way is better.
    """

    name: str
    direction: Direction

    @property
    def worst(self) -> float:
        """Result of a run that diverged or was hopeless. Any finite number would be made up."""
        return math.inf if self.direction == "minimize" else -math.inf

    def of(self, record: Record) -> float | None:
        """A finished run's; None if its record has no such number."""
        if record.status in CUT_SHORT:
            return self.worst
        own = record.values if isinstance(record, AppRecord) else {}
        value = own.get(self.name, record_row(record).get(self.name))
        if isinstance(value, bool) or not isinstance(value, int | float) or math.isnan(value):
            return None
        return float(value)


def objective_value(record: Record) -> float | None:
    """Held-out loss, or another app's first value, which Hydra's own sweepers are told."""
    if isinstance(record, AppRecord):
        return math.inf if record.status in CUT_SHORT else record.loss
    return Objective(name="val_loss", direction="minimize").of(record)


@dataclass(frozen=True, kw_only=True)
class Result:
    """value: the mean objective, infinite if a run diverged or was hopeless; None if a run has
    none, and why says the reason.
    """

    value: float | None
    why: str = ""


def combine_results(
    run_dirs: Sequence[Path],
    objective: Objective,
    busy: Collection[str] = (),
    given_up: Mapping[str, str] | None = None,
    *,
    failed_counts: bool = False,
) -> Result | None:
    """Result of these runs together; None while one of them is still to end.

    busy: runs that a queue has. given_up: runs that won't be tried again, and why. failed_counts:
    so does a failed record; else its run is about to be tried again.
    """
    results = []
    for run_dir in run_dirs:
        result = _result(run_dir, objective, busy, given_up or {}, failed_counts)
        if result is None:
            return None
        results.append(result)
    failed = [result for result in results if result.value is None]
    values = [result.value for result in results if result.value is not None]
    return failed[0] if failed else Result(value=sum(values) / len(values))


def _result(
    run_dir: Path,
    objective: Objective,
    busy: Collection[str],
    given_up: Mapping[str, str],
    failed_counts: bool,
) -> Result | None:
    if is_claimed(run_dir):
        return None
    try:
        record = read_any_record(run_dir / RECORD_NAME)
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        record = None
    if record is not None and record.status != "failed":
        value = objective.of(record)
        why = "" if value is not None else f"its record has no number {objective.name}"
        return Result(value=value, why=why)
    if run_dir.name in busy:
        return None
    if run_dir.name in given_up:
        return Result(value=None, why=given_up[run_dir.name])
    if record is not None and failed_counts:
        return Result(value=None, why=(record.error or "failed").strip().splitlines()[-1])
    return None
