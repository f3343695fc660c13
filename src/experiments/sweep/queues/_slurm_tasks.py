"""A sweep's tasks in Slurm: those that squeue has, and those that sacct remembers."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from experiments.sweep import submission
from experiments.sweep.queue import Task

TITLE = "Slurm"
FOLDER = "slurm"  # of a sweep: lists of points, logs
JOB_PREFIX = "experiments"
TIMEOUT = 60.0  # seconds; a busy controller is slow
_GONE_ON = ("COMPLETED", "RUNNING", "PENDING", "REQUEUED")  # in sacct: nothing to say


def is_there() -> bool:
    """Whether this machine can submit to Slurm."""
    return shutil.which("sbatch") is not None


def check_answers() -> None:
    """Raises RuntimeError if Slurm's controller does not answer, so that a submission would fail
    after text has been fetched and tokenized for it.
    """
    call("squeue", "--noheader", "--me", "--format=%i")


class Row(NamedTuple):
    """An array's task in squeue or sacct: job as 12_3, submission: its name, place: in its list,
    state as PENDING, reason or node list.
    """

    job: str
    submission: str
    place: int
    state: str
    reason: str

    def task(self, sweep_dir: Path) -> Task:
        """As squeue has it. Slurm keeps it pending until someone releases it: JobHeldUser,
        JobHeldAdmin, JobHoldMaxRequeue, (launch failed requeued held), (job requeued in held
        state).
        """
        pending = self.state == "PENDING"
        held = pending and re.search("held|hold", self.reason, re.IGNORECASE) is not None
        if held or self.state in ("REQUEUE_HOLD", "SPECIAL_EXIT"):
            release = f"scontrol release {self.job}"
            return self._task(sweep_dir, self.reason.strip("()"), release)
        return self._task(sweep_dir, self.reason if pending else self.state.lower())

    def past(self, sweep_dir: Path) -> Task:
        """As sacct has it; without words if it ended by itself, or has not."""
        said = "" if self.state in _GONE_ON else f"Slurm: {self.state} on {self.reason}"
        return self._task(sweep_dir, said)

    def _task(self, sweep_dir: Path, detail: str, release: str | None = None) -> Task:
        log = sweep_dir / FOLDER / f"{self.job}.out"
        return Task(queue=TITLE, job=self.job, detail=detail, release=release, log=log)


def job_name(sweep_dir: Path, name: str) -> str:
    """experiments-<sweep>-<submission>."""
    return f"{JOB_PREFIX}-{sweep_dir.name}-{name}"


def queued(sweep_dir: Path) -> list[Row]:
    """All tasks of the sweep's submissions that Slurm has queued or is running."""
    names = _names(sweep_dir)
    if not names or not is_there():
        return []
    rows = []
    for line in call("squeue", "--noheader", "--array", "--format=%F|%K|%j|%T|%R").splitlines():
        job, index, name, state, reason = line.split("|", 4)
        if index.isdigit() and name in names:
            rows.append(Row(f"{job}_{index}", names[name], int(index), state, reason))
    return rows


def history(sweep_dir: Path) -> list[Row]:
    """All tasks of the sweep's submissions that sacct remembers."""
    names = _names(sweep_dir)
    if not names or shutil.which("sacct") is None:
        return []
    try:
        out = call(
            "sacct", "--noheader", "--parsable2", "--allocations", "--starttime=now-60days",
            f"--name={','.join(names)}", "--format=JobID,JobName,State,NodeList",
        )  # fmt: skip
    except RuntimeError:  # accounting is off
        return []
    rows = []
    for line in out.splitlines():
        job, name, state, nodes = line.split("|")
        if name in names and (found := re.fullmatch(r"\d+_(\d+)", job)):
            first = state.split()[0]  # "CANCELLED by 0"
            rows.append(Row(job, names[name], int(found[1]), first, nodes))
    return rows


def _names(sweep_dir: Path) -> dict[str, str]:
    """Sweep's submissions by the names of their jobs."""
    stems = (path.stem for path in submission.paths(sweep_dir / FOLDER))
    return {job_name(sweep_dir, stem): stem for stem in stems}


def by_run(sweep_dir: Path, tasks: Mapping[Row, Task]) -> dict[str, Task]:
    found = ((row.submission, row.place, task) for row, task in tasks.items())
    return submission.by_run(sweep_dir / FOLDER, found)


def call(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{command[0]} does not answer: {error}") from None
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {last_line(done.stderr or done.stdout)}")
    return done.stdout


def last_line(text: str) -> str:
    return (text.strip() or "no message").splitlines()[-1]
