"""Where every point of a sweep stands: from our own files first, then from what queues say.

Standard library only, and each file is read once: 10,000 points are a matter of a second.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from experiments.records.files import RECORD_NAME, DamagedError, Outcome, read_outcome
from experiments.records.finished import LACKS_ROWS, lacks_rows, rows_note, some
from experiments.records.record import CUT_SHORT
from experiments.sweep import manifest
from experiments.sweep.lost import list_folders, lost_entries
from experiments.sweep.progress import read_progress
from experiments.sweep.queue import Task, ended_tasks, read_tasks
from experiments.system.claims import JOURNAL_NAME, is_claimed, read_events
from experiments.system.regular_files import read_regular
from experiments.system.requeue import NO_GPU

STATES = (
    "done", "running", "queued", "held", "waiting", "interrupted", "killed", "failed", "damaged",
    "diverged", "hopeless",
)  # fmt: skip
LOG_NAME = "log.txt"
_STOP = b'"event": "interrupted"'  # as claims.log_event writes it


@dataclass(frozen=True, kw_only=True)
class PointState:
    """One point. seconds_left: of its training, at its last rate. n_stops: preemptions and other
    signals that it outlived. detail: why, in words. FLOPs of a branch are those of its own steps.
    loss: held out, of a finished run. n_params: all of them, once it has begun.

    running: a process has it. queued: a queue has it. held: a queue has it and won't start it
    before the command in detail. waiting: nobody has begun it. interrupted: it saved and ended.
    killed: its process ended and wrote no reason. damaged: its record can't be read. The last three
    go on from a checkpoint. n_steps is 0 where it is not known.
    """

    run_id: str
    label: str
    state: str
    step: int
    n_steps: int
    tokens_per_second: float | None
    seconds_left: float | None
    planned_flops: float
    done_flops: float
    n_stops: int
    job: str | None
    log: str | None
    detail: str
    loss: float | None = None
    n_params: int | None = None


@dataclass(frozen=True, kw_only=True)
class SweepState:
    """All points in the manifest's order, then those that no line of it names; notes: what of the
    sweep can't be read, in words. entries: how each point was submitted.
    """

    points: tuple[PointState, ...]
    notes: tuple[str, ...]
    entries: tuple[manifest.Entry, ...] = ()

    @property
    def unit(self) -> str:
        """Unit of the points' planned_flops and done_flops."""
        return self.entries[0].unit if self.entries else manifest.FLOPS


def read_states(sweep_dir: Path) -> list[PointState]:
    """Points of read_sweep."""
    return list(read_sweep(sweep_dir).points)


def read_sweep(sweep_dir: Path) -> SweepState:
    """Every point, however damaged the files of one are.

    Raises ValueError if there is neither a manifest with a point nor a run.
    """
    found = manifest.load(sweep_dir)
    there = list_folders(sweep_dir)
    lost = lost_entries(sweep_dir, there - set(found.entries))
    if not found.entries and not lost:
        manifest.read(sweep_dir)  # says why
    notes = [found.note(), _lost_note(found, lost)]
    queued: Mapping[str, Task] = {}
    try:
        queued = read_tasks(sweep_dir)
    except RuntimeError as error:
        notes.append(f"{error}; queued points are shown as waiting, interrupted or killed")
    ended = ended_tasks(sweep_dir)
    entries = (*found.entries.values(), *lost)
    points = [
        _state(sweep_dir, entry, entry.run_id in there, queued.get(entry.run_id), ended)
        for entry in entries
    ]
    notes.append(rows_note([point.run_id for point in points if point.detail == LACKS_ROWS]))
    said = tuple(note for note in notes if note)
    return SweepState(points=tuple(points), notes=said, entries=entries)


def _lost_note(found: manifest.Manifest, lost: list[manifest.Entry]) -> str | None:
    if not lost:
        return None
    if not found.entries and not found.damaged:
        return f"{found.path} is missing or empty: {len(lost)} runs are shown from their folders"
    names = some([entry.run_id for entry in lost])
    return f"{len(lost)} runs are in no line of {found.path}, shown from their folders: {names}"


def _state(
    sweep_dir: Path,
    entry: manifest.Entry,
    there: bool,
    task: Task | None,
    ended: Mapping[str, Task],
) -> PointState:
    run_dir = sweep_dir / entry.run_id
    end, n_stops = ended.get(entry.run_id), 0
    try:
        state, detail, outcome, row = _name(run_dir, there, task, end)
        n_stops = _n_stops(run_dir) if there else 0
    except OSError as error:
        state, outcome, row = "damaged", None, {}
        detail = f"{error.filename} can't be read ({error.strerror}); make it readable"
    step = int(row.get("step", 0)) if outcome is None else outcome.n_steps
    if outcome is not None and outcome.status in CUT_SHORT:
        detail = outcome.error or ""  # a branch is not run, if its trunk diverged
    if state == "waiting" and entry.trunk is not None:
        detail = f"for step {entry.first_step} of its trunk {entry.trunk}"
    if outcome is not None and lacks_rows(run_dir, outcome):
        detail = LACKS_ROWS
    n_steps = entry.n_steps or int(row.get("n_steps", 0))
    rate, left = row.get("tokens_per_second"), None
    if step and rate and "n_tokens" in row:
        left = max(0, n_steps - step) * row["n_tokens"] / step / rate
    running, known = state == "running", task or end
    return PointState(
        run_id=entry.run_id,
        label=entry.label,
        state=state,
        step=step,
        n_steps=n_steps,
        tokens_per_second=rate if running else None,
        seconds_left=left if running else None,
        planned_flops=entry.planned_flops,
        done_flops=entry.planned_flops * _share(step, entry.first_step, n_steps),
        n_stops=n_stops,
        job=known.job if known else None,
        log=_log(run_dir, known),
        detail=detail,
        loss=None if outcome is None else outcome.loss,
        n_params=_n_params(row) if outcome is None else outcome.n_params,
    )


def _n_params(row: Mapping[str, float]) -> int | None:
    found = row.get("n_params")  # progress of earlier versions has none
    return int(found) if found else None


def _share(step: int, first_step: int, n_steps: int) -> float:
    """Share of a run's own steps that it has taken."""
    own = n_steps - first_step
    return min(1.0, max(0.0, (step - first_step) / own)) if own > 0 else 0.0


def _name(
    run_dir: Path, there: bool, task: Task | None, end: Task | None
) -> tuple[str, str, Outcome | None, dict[str, float]]:
    """State and why; the record's outcome, if the run is finished; its progress, if not."""
    if not there:
        return *_unfinished([], None, None, task, end), None, {}
    outcome, damage = _outcome(run_dir)
    if outcome is None or outcome.status == "failed":
        journal = read_events(run_dir)
        row, age = _progress(run_dir, journal)
        if is_claimed(run_dir):
            return "running", f"no progress for {age:.0f} s" if age > _QUIET else "", None, row
        outcome, damage = _outcome(run_dir)  # again: the run may have ended since
    if outcome is None or outcome.status == "failed":
        return *_unfinished(journal, outcome, damage, task, end), None, row
    return outcome.status, "", outcome, {}


def _unfinished(
    journal: list[dict[str, Any]],
    outcome: Outcome | None,
    damage: DamagedError | None,
    task: Task | None,
    end: Task | None,
) -> tuple[str, str]:
    """State of a run that no process has and that is not finished, and why."""
    if task is not None and task.release is not None:
        return "held", f"{task.detail}; {task.release}"
    if task is not None:
        return "queued", task.detail
    if damage is not None:
        return "damaged", str(damage)
    if outcome is not None:
        return "failed", ((outcome.error or "").strip() or "no traceback").splitlines()[-1]
    last = journal[-1] if journal else None
    if last is None and end is None:
        return "waiting", ""
    if last is not None and last["event"] == NO_GPU:
        return "failed", last.get("why", "")
    if end is not None and end.detail:
        stopped = last is not None and last["event"] == "interrupted"
        return "interrupted" if stopped else "killed", end.detail
    if last is not None and last["event"] in ("stalled", "tried again", "given up"):
        return "killed", last.get("why", "")
    if last is not None and last["event"] == "started":
        return "killed", f"started {last['time']} by {last['by']}, and never ended"
    return "interrupted", str(last.get("why", "")) if last else ""


def _outcome(run_dir: Path) -> tuple[Outcome | None, DamagedError | None]:
    """Record's outcome, or why it can't be read; (None, None) without a record."""
    try:
        return read_outcome(run_dir / RECORD_NAME), None
    except (FileNotFoundError, NotADirectoryError):
        return None, None
    except DamagedError as error:
        return None, error


_QUIET = 300.0  # seconds without progress after which the status says so


def _progress(run_dir: Path, journal: list[dict[str, Any]]) -> tuple[dict[str, float], float]:
    """Last row of a run's progress, and the seconds since it or its start, the later.

    Of an earlier attempt's row the rate is left out.
    """
    row = read_progress(run_dir)
    starts = [event["time"] for event in journal if event["event"] == "started"]
    began = _timestamp(starts[-1]) if starts else 0.0
    updated = row.get("updated", 0.0)
    if updated < began:
        row.pop("tokens_per_second", None)
    last = max(updated, began)
    return row, max(0.0, time.time() - last) if last else 0.0


def _timestamp(text: str) -> float:
    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0


def _n_stops(run_dir: Path) -> int:
    try:
        return read_regular(run_dir / JOURNAL_NAME).count(_STOP)
    except FileNotFoundError:
        return 0


def _log(run_dir: Path, task: Task | None) -> str | None:
    own = run_dir / LOG_NAME
    paths = [own] if task is None or task.log is None else [task.log, own]
    return next((str(path) for path in paths if path.exists()), None)
