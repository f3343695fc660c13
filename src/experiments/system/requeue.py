"""Whether a point that ended without a record is tried again, and how in Slurm. Stdlib only.

What counts is in the run's folder: a point is tried again from the same checkpoint (or, without
one, from its start) at most trainer.max_retries times; each new checkpoint starts the count at 0.
A preempted job is put back by Slurm itself, and what scancel or `cancel` ended stays ended.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

from experiments.system.claims import log_event, read_events, slurm_job

MAX_RETRIES = 2  # trainer.max_retries, where the config can't be known
SIGNAL_SECONDS = 120  # what sbatch/*.sh ask for: how long before the limit the signal comes
SIGNAL_VARIABLE = "EXPERIMENTS_SIGNAL_SECONDS"  # of a job's environment, if another was asked for
TIME_LIMIT_SIGNAL = "SIGUSR1"
AGAIN = ("tried again", "requeued")  # events: on this machine, and in Slurm
GIVEN_UP = "given up"
STALLED = 76  # exit code of a process that made no step for too long
_SLACK = 60.0  # seconds: how much earlier Slurm may send it


def try_again(run_dir: Path, max_retries: int, event: str, why: str) -> bool:
    """Whether to try the point again. Writes `event`, one of AGAIN, or given up to the journal.

    After given up the count starts at 0: the next try is a person's decision.
    """
    checkpoint = _checkpoint(run_dir)
    n_tries = 0
    for past in reversed(read_events(run_dir)):
        if past["event"] == GIVEN_UP:
            break
        if past["event"] in AGAIN:
            if past.get("checkpoint") != checkpoint:
                break
            n_tries += 1
    if n_tries >= max_retries:
        log_event(run_dir, GIVEN_UP, why=f"{why}; no new checkpoint in {n_tries + 1} tries")
        return False
    log_event(run_dir, event, why=why, checkpoint=checkpoint)
    return True


def _checkpoint(run_dir: Path) -> int | None:
    """When the last checkpoint was written, in nanoseconds: it names it."""
    try:
        return (run_dir / "last.ckpt").stat().st_mtime_ns
    except OSError:
        return None


def at_time_limit(signal: str | None, signal_seconds: float | None = None) -> bool:
    """Whether this signal is the time limit's: the one that was asked for, and at its time.

    Slurm ends a job by TERM: scancel, or preemption. With send_user_signal a preemption sends USR1
    too, so that the clock is asked as well.
    """
    lead = signal_seconds or float(os.environ.get(SIGNAL_VARIABLE) or SIGNAL_SECONDS)
    end = os.environ.get("SLURM_JOB_END_TIME")
    return (
        signal == TIME_LIMIT_SIGNAL and end is not None and float(end) - time.time() < lead + _SLACK
    )


def is_first_rank() -> bool:
    """Whether this process acts for the whole job."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def requeue_point(run_dir: Path | None, max_retries: int, why: str) -> bool:
    """Puts this process's own job back into the queue, unless it makes no progress. Says so.

    run_dir: None if it isn't known; Slurm's count of restarts is taken for that of the tries.
    Returns whether it is in the queue again.
    """
    if run_dir is None:
        more = int(os.environ.get("SLURM_RESTART_COUNT") or 0) < max_retries
    else:
        more = try_again(run_dir, max_retries, "requeued", why)
    if not more:
        print(f"no new checkpoint in {max_retries + 1} tries: not requeued", file=sys.stderr)
        return False
    return requeue()


def requeue() -> bool:
    """scontrol requeue; says so if Slurm refuses. Returns whether it did not.

    By the array task's own id, as 12_3: SLURM_JOB_ID of one of the tasks is the array's number,
    which names them all.
    """
    job = slurm_job()
    assert job is not None
    try:
        done = subprocess.run(
            ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        print(f"scontrol requeue {job}: {error}", file=sys.stderr)
        return False
    if done.returncode:
        print(f"scontrol requeue {job}: {done.stderr.strip()}", file=sys.stderr)
    return done.returncode == 0
