"""Forms of a Slurm submission's settings, by the rules of sbatch's manual, and the needs of its
points against what it asks for: GPUs, memory, cores, and seconds of warning before the time limit.
"""

import math
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

from experiments.config.constraints import Matches, Within
from experiments.sweep.point import Point

if TYPE_CHECKING:
    from experiments.sweep.queues.slurm import Slurm

TimeLimit = Annotated[
    str,
    Matches(
        r"[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}|(?i:unlimited|infinite)",
        "minutes, minutes:seconds, hours:minutes:seconds, days-hours, days-hours:minutes or "
        "days-hours:minutes:seconds, as 12:00:00",
    ),
]
NodeMemory = Annotated[
    str, Matches(r"[0-9]+[KMGTkmgt]?", "a whole number of MB, or with K, M, G or T after it: 64G")
]
Name = Annotated[str, Matches(r"[^\s,=-][^\s,=]*", "one name, without spaces, commas and =")]
Names = Annotated[
    str, Matches(r"[^\s,=-][^\s,=]*(,[^\s,=]+)*", "a name, or several with commas between")
]
Gpus = Annotated[int, Within(0, 4096)]
Seconds = Annotated[int, Within(1, 65535)]
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# sbatch's options that a submission sets itself, by their names: what to set instead
_OWN_OPTIONS = {
    ("array", "a"): "hydra.launcher.max_parallel",
    ("nodes", "N"): "trainer.num_nodes",
    ("ntasks", "n", "ntasks-per-node"): "trainer.devices",
    ("signal",): "hydra.launcher.signal_seconds",
    ("wrap",): "hydra.launcher.setup",
    ("dependency", "d"): "optim.branch_from",
    ("job-name", "J", "output", "o", "parsable"): "sweep",
    ("test-only", "help", "h", "usage", "version", "V", "wait", "W"): "dry_run=true",
}

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


def check_extra(extra: Sequence[str]) -> None:
    """Raises ValueError for words that are none of sbatch's options, or one that a submission has
    itself.
    """
    for i, word in enumerate(extra):
        where = f"extra[{i}]={word!r}"
        if not word.startswith("-") and (i == 0 or not extra[i - 1].startswith("-")):
            raise ValueError(f"{where} is no option of sbatch, which begin with -, as --exclusive")
        long = word.removeprefix("--").partition("=")[0] if word.startswith("--") else ""
        name = long or (word[1:2] if word.startswith("-") else "")
        for own, instead in _OWN_OPTIONS.items():
            if name in own:
                raise ValueError(f"{where} is set by each submission; set {instead} instead")


def parse_seconds(limit: str) -> int | None:
    """Seconds of a time limit; None: there is none."""
    if not limit[:1].isdigit() or set(limit) <= set("0:-"):
        return None
    days, dash, rest = limit.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash:  # hours first
        hours, minutes, seconds = [*parts, 0, 0][:3]
    elif len(parts) == 3:
        hours, minutes, seconds = parts
    else:  # minutes first
        hours, (minutes, seconds) = 0, [*parts, 0][:2]
    return ((24 * int(days or 0) + hours) * 60 + minutes) * 60 + seconds


def check_resources(points: Sequence[Point], queue: "Slurm") -> None:
    """Raises ValueError if less is asked for than these points need."""
    if not points:
        return
    _check_gpus(points, queue)
    limit, warning = parse_seconds(queue.time or "0"), queue.warning(points)
    if limit is not None and limit <= warning:
        raise ValueError(
            f"hydra.launcher.time={queue.time} is no longer than the {warning} s before its end in "
            "which runs save and are put back; give them more time, or lower "
            "hydra.launcher.signal_seconds"
        )
    n_bytes = _parse_bytes(queue.mem or "0")
    for point in points:
        needed = point.needs.n_bytes * point.needs.devices
        if not point.needs.gpu and 0 < n_bytes < needed:
            raise ValueError(
                f"hydra.launcher.mem={queue.mem} is below the {needed / 2**30:.1f} GiB that "
                f"{point.describe()} needs on a node; raise it"
            )


def _parse_bytes(mem: str) -> int:
    unit = _UNITS.get(mem[-1].upper())
    return int(mem) * _UNITS["M"] if unit is None else int(mem[:-1]) * unit


def _check_gpus(points: Sequence[Point], queue: "Slurm") -> None:
    """Raises ValueError for points that are planned for GPUs, and a submission without them."""
    for point in points:
        needs = point.needs
        if not needs.gpu:
            continue
        devices, given = needs.devices, queue.gpus_per_node
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
        if given and needs.cards_per_node is not None and given > needs.cards_per_node:
            raise ValueError(
                f"hydra.launcher.gpus_per_node={given} is above cluster.cards_per_node="
                f"{needs.cards_per_node}; lower it, and set trainer.num_nodes for more cards"
            )


def needs_gpu(point: Point, queue: "Slurm") -> bool:
    """Whether a task without a GPU is to end at once: one was planned, or is asked for and taken
    where it is found (trainer.accelerator=auto).
    """
    needs = point.needs
    return needs.gpu or (asks_for_gpus(queue) and needs.takes_gpu)


def checkpoint_bytes(points: Sequence[Point]) -> int:
    """Largest checkpoint's: weights and moments, as they are planned."""
    return max(point.needs.checkpoint_bytes for point in points)


def signal_seconds(points: Sequence[Point]) -> int:
    """Seconds of warning in which the largest checkpoint can be written."""
    needed = _BESIDE + checkpoint_bytes(points) / _WRITES
    return max(SIGNAL_SECONDS, 10 * math.ceil(needed / 10))


def describe_signal(points: Sequence[Point], seconds: int) -> str:
    """Warning in words, and what it has to be enough for."""
    return (
        f"{seconds} s before the time limit the runs save and are put back: checkpoints of up to "
        f"{checkpoint_bytes(points) / 1e9:.3g} GB, written at {_WRITES / 1e6:.0f} MB/s or faster"
    )


def notes(points: Sequence[Point], queue: "Slurm") -> list[str]:
    """Lines for what a submission leaves to the cluster, and the plan to this machine."""
    lines = []
    if queue.cpus_per_task is None and not _CPU_OPTION.search(" ".join(queue.extra)):
        lines.append(
            "note: hydra.launcher.cpus_per_task is not set, so each process has the cluster's "
            "default, often one core"
        )
    if any(not p.needs.gpu and needs_gpu(p, queue) for p in points):
        lines.append(
            "note: GPUs are asked for, and time and memory are planned for this machine's CPU; "
            "name the cards to plan for them: cluster=h100 (conf/cluster)"
        )
    return lines
