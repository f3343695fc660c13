"""How this process was started: alone, by torchrun or by srun. Standard library only.

Both set the rank, the number of processes and a share of the cores in the environment of what they
start, whoever asked for it: so this is no matter of a sweep's queue.
"""

import os
from typing import Any


def rank() -> int:
    """This process's global rank; 0 if it was started alone."""
    return int(_first("RANK", "SLURM_PROCID") or 0)


def local_rank() -> int:
    """This process's rank among those of its node; 0 if it was started alone."""
    return int(_first("LOCAL_RANK", "SLURM_LOCALID") or 0)


def n_processes() -> int:
    """How many processes were started together."""
    return int(_first("WORLD_SIZE", "SLURM_NTASKS") or 1)


def given_cores() -> int | None:
    """Cores of this process, as its job has asked for them; None if it has not."""
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return int(given) if given.isdigit() else None


def given_gpus() -> int:
    """GPUs of this job on this node, all of its tasks' together; 0 if that is not known."""
    given = os.environ.get("SLURM_GPUS_ON_NODE", "")
    return int(given) if given.isdigit() else 0


def slurm_job() -> str | None:
    """Slurm job of this process, as squeue writes it: 12, or 12_3 of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def job_numbers() -> dict[str, Any]:
    """Job as a record's environment has it."""
    names = ("SLURM_JOB_ID", "SLURM_ARRAY_TASK_ID")
    return {name.lower(): os.environ.get(name) for name in names}


def in_words() -> str:
    """Job for people, after a space; nothing if there is none."""
    job = slurm_job()
    return "" if job is None else f" Slurm job {job}"


def _first(*names: str) -> str | None:
    return next((os.environ[name] for name in names if name in os.environ), None)
