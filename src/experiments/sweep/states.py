"""Where every point of a sweep stands: from our own files first, then squeue, then sacct."""

import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from experiments.claims import events, is_claimed
from experiments.records import RECORD_NAME, RunRecord, read_record
from experiments.sweep import manifest, slurm
from experiments.sweep.progress import read_progress

STATES = (
    "done", "running", "queued", "waiting", "interrupted", "killed", "failed", "diverged"
)  # fmt: skip
LOG_NAME = "log.txt"


@dataclass(frozen=True, kw_only=True)
class PointState:
    """One point. seconds_left: of its training, at its last rate. n_stops: preemptions and other
    signals that it outlived. detail: why, in words.

    running: a process has it. queued: Slurm has it. waiting: nobody has begun it. interrupted: it
    saved and ended. killed: its process ended without a word. The last two go on from a checkpoint.
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


def read_states(sweep_dir: Path) -> list[PointState]:
    """All points in the manifest's order. Raises ValueError if there is no manifest."""
    entries = manifest.read(sweep_dir)
    queued: Mapping[str, slurm.Task] = {}
    try:
        queued = slurm.queue(sweep_dir)
    except RuntimeError as error:
        print(f"note: {error}; what is queued can't be told from what waits", file=sys.stderr)
    ended = slurm.history(sweep_dir)
    return [_state(sweep_dir, e, queued, ended) for e in entries.values()]


def _state(
    sweep_dir: Path,
    entry: manifest.Entry,
    queued: Mapping[str, slurm.Task],
    ended: Mapping[str, slurm.Task],
) -> PointState:
    run_dir = sweep_dir / entry.run_id
    path = run_dir / RECORD_NAME
    record = read_record(path) if path.exists() else None
    row = read_progress(run_dir)
    task = queued.get(entry.run_id)
    state, detail = _name(run_dir, record, task, ended.get(entry.run_id))
    running = state == "running"
    step = int(row.get("step", 0))
    rate = row.get("tokens_per_second")
    left = (entry.n_steps - step) * row["n_tokens"] / step / rate if step and rate else None
    if record is not None and record.status != "failed":
        step = record.n_tokens // record.batch_tokens
    stops = [e for e in events(run_dir) if e["event"] == "interrupted"]
    known = task or ended.get(entry.run_id)
    return PointState(
        run_id=entry.run_id,
        label=entry.label,
        state=state,
        step=step,
        n_steps=entry.n_steps,
        tokens_per_second=rate if running else None,
        seconds_left=left if running else None,
        planned_flops=entry.planned_flops,
        done_flops=entry.planned_flops * min(1.0, step / entry.n_steps),
        n_stops=len(stops),
        job=known.job if known else None,
        log=_log(sweep_dir, run_dir, known),
        detail=detail,
    )


def _name(
    run_dir: Path, record: RunRecord | None, task: slurm.Task | None, end: slurm.Task | None
) -> tuple[str, str]:
    """The state and why."""
    if is_claimed(run_dir):
        age = _seconds_since_heartbeat(run_dir)
        return "running", f"no progress for {age:.0f} s" if age > _QUIET else ""
    if record is not None and record.status in ("done", "diverged"):
        return record.status, ""
    if task is not None:
        return "queued", task.reason if task.state == "PENDING" else task.state.lower()
    if record is not None:
        return "failed", (record.error or "no traceback").strip().splitlines()[-1]
    journal = events(run_dir)
    last = journal[-1] if journal else None
    if last is None and end is None:
        return "waiting", ""
    if end is not None and end.state not in ("COMPLETED", "RUNNING", "PENDING", "REQUEUED"):
        where = f"Slurm: {end.state} on {end.reason}"
        return ("interrupted" if last and last["event"] == "interrupted" else "killed"), where
    if last is not None and last["event"] == "started":
        return "killed", f"started {last['time']} by {last['by']}, and never ended"
    return "interrupted", last.get("why", "") if last else ""


_QUIET = 300.0  # seconds without a heartbeat that are worth a word


def _seconds_since_heartbeat(run_dir: Path) -> float:
    row = read_progress(run_dir)
    return time.time() - row["updated"] if row else 0.0


def _log(sweep_dir: Path, run_dir: Path, task: slurm.Task | None) -> str | None:
    if task is not None:
        path = sweep_dir / slurm.FOLDER / f"{task.job}.out"
        if path.exists():
            return str(path)
    path = run_dir / LOG_NAME
    return str(path) if path.exists() else None
