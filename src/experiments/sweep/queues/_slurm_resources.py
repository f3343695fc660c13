"""The needs of a Slurm submission's points, against what it asks for: GPUs, cores, and seconds of
warning before the time limit.
"""

import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.points.point import Point
    from experiments.sweep.queues.slurm import Slurm

SIGNAL_SECONDS = 120  # of warning, at least; what sbatch/*.sh ask for
_WRITES = 100e6  # bytes/s of a checkpoint, at least: on a shared file system that others use too
_BESIDE = 60  # seconds: to the end of the step, and for what is not writing
_GPU_OPTION = re.compile(r"(?:^|\s)(?:--gpus|-G|--(?:gres|tres-per-\w+)[ =]\S*gpu)")
_CPU_OPTION = re.compile(r"(?:^|\s)(?:--cpus-per-|-c)")


def asks_for_gpus(queue: "Slurm") -> bool:
    """Whether one of sbatch's GPU options is there: a setting, in `extra`, or by the environment,
    which sbatch reads too.
    """
    named = ("SBATCH_GRES", "SBATCH_TRES_PER_TASK")
    return (
        bool(queue.gpus_per_node)
        or _GPU_OPTION.search(" ".join(queue.extra)) is not None
        or any(name.startswith("SBATCH_GPUS") for name in os.environ)
        or any("gpu" in os.environ.get(name, "") for name in named)
    )


def check_gpus(points: "Sequence[Point]", queue: "Slurm") -> None:
    """Raises ValueError for points that are planned for GPUs, and a submission without them."""
    for point in points:
        if point.device.accelerator != "cuda":
            continue
        devices, given = point.config.trainer.devices, queue.gpus_per_node
        if given is None and not asks_for_gpus(queue):
            raise ValueError(
                f"{point.describe()} is planned for a GPU, and its submission asks Slurm for none, "
                f"so it would train on a CPU; set hydra.launcher.gpus_per_node={devices} (0: this "
                "cluster gives its GPUs unasked), or another option of sbatch: "
                "'hydra.launcher.extra=[\"--gpus-per-task=1\"]'"
            )
        if given and given < devices:
            raise ValueError(
                f"hydra.launcher.gpus_per_node={given} is below trainer.devices={devices}, and "
                "each process needs a GPU; set it to as many"
            )


def needs_gpu(point: "Point", queue: "Slurm") -> bool:
    """Whether a task without a GPU is to end at once: one was planned, or is asked for and taken
    where it is found (trainer.accelerator=auto).
    """
    of_cpu = point.config.trainer.accelerator == "cpu"
    return point.device.accelerator == "cuda" or (asks_for_gpus(queue) and not of_cpu)


def checkpoint_bytes(points: "Sequence[Point]") -> int:
    """The largest checkpoint's: weights and moments, as they are planned."""
    return max(point.plan.memory.weights + point.plan.memory.moments for point in points)


def signal_seconds(points: "Sequence[Point]") -> int:
    """Seconds of warning in which the largest checkpoint can be written."""
    needed = _BESIDE + checkpoint_bytes(points) / _WRITES
    return max(SIGNAL_SECONDS, 10 * math.ceil(needed / 10))


def describe_signal(points: "Sequence[Point]", seconds: int) -> str:
    """The warning in words, and what it has to be enough for."""
    return (
        f"{seconds} s before the time limit the runs save and are put back: checkpoints of up to "
        f"{checkpoint_bytes(points) / 1e9:.3g} GB, written at {_WRITES / 1e6:.0f} MB/s or faster"
    )


def notes(points: "Sequence[Point]", queue: "Slurm") -> list[str]:
    """Lines for what a submission leaves to the cluster, and the plan to this machine."""
    lines = []
    if queue.cpus_per_task is None and not _CPU_OPTION.search(" ".join(queue.extra)):
        lines.append(
            "note: hydra.launcher.cpus_per_task is not set, so each process has the cluster's "
            "default, often one core"
        )
    if any(p.device.accelerator == "cpu" and needs_gpu(p, queue) for p in points):
        lines.append(
            "note: GPUs are asked for, and time and memory are planned for this machine's CPU; "
            "name the cards to plan for them: cluster=h100 (conf/cluster)"
        )
    return lines
