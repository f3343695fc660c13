"""A Slurm job that puts itself back into the queue near its time limit. Standard library only.

A preempted job is put back by Slurm itself: never both, or a finished run would run again.
"""

import os
import subprocess
import sys
import time

SIGNAL_SECONDS = 120  # what sbatch/*.sh ask for: how long before the limit the signal comes
_SLACK = 60.0  # seconds: how much earlier Slurm may send it


def near_time_limit(signal_seconds: float = SIGNAL_SECONDS) -> bool:
    """Whether the signal was the time limit's: the job ends within the lead that was asked for."""
    end = os.environ.get("SLURM_JOB_END_TIME")
    return end is not None and float(end) - time.time() < signal_seconds + _SLACK


def is_first_rank() -> bool:
    """Whether this process speaks for the job."""
    return os.environ.get("SLURM_PROCID", "0") == "0"


def requeue() -> None:
    """scontrol requeue; says so if Slurm refuses."""
    job = os.environ["SLURM_JOB_ID"]
    done = subprocess.run(
        ["scontrol", "requeue", job], capture_output=True, text=True, check=False, timeout=60
    )
    if done.returncode:
        print(f"scontrol requeue {job}: {done.stderr.strip()}", file=sys.stderr)
