"""Where a run starts: at its own checkpoint, at its trunk's, or with its first step."""

import json
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments import kept
from experiments.branches import TRUNK, Branch
from experiments.point import Point
from experiments.system.claims import log_event
from experiments.system.disk import write_text_atomically
from experiments.system.interruption import Interrupted
from experiments.system.seals import damage_of
from experiments.training.checkpoints import to_resume_from

BRANCH_NAME = "branch.json"  # in a branch's folder: how many steps it took over


class TrunkDivergedError(Exception):
    """The trunk diverged before the branch's start, as the branch itself would have."""

    def __init__(self, trunk_id: str, n_steps: int) -> None:
        super().__init__(f"not run: its trunk {trunk_id} diverged at step {n_steps}")
        self.n_steps = n_steps


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """checkpoint: to go on from; None: from the start. taken: the steps that were a trunk's."""

    checkpoint: Path | None
    taken: int = 0


def beginning_of(point: Point) -> Beginning:
    """The newest whole checkpoint of the run, else the one of its trunk that leads to its start.

    Where the trunk has gone past the start and kept no checkpoint of it, that is an earlier one, or
    none: the branch takes more steps itself, to the same bits. Raises TrunkDivergedError,
    RuntimeError if the trunk failed, and Interrupted if it is not so far.
    """
    own, branch = to_resume_from(point.run_dir), point.branch
    if branch is None:
        return Beginning(checkpoint=own)
    if own is not None:
        return Beginning(checkpoint=own, taken=_noted(point))
    if not kept.path_of(branch.folder, branch.n_steps).exists():
        _check_trunk(branch)
    for n_steps, path in kept.usable(branch.folder, branch.n_steps):
        why = damage_of(path)
        if why is None:
            return Beginning(checkpoint=path, taken=n_steps)
        warnings.warn(f"{path} is damaged ({why}); it is ignored", stacklevel=2)
    if point.config.optim.branch_from != TRUNK:
        raise RuntimeError(
            f"{branch.folder} has no whole checkpoint of step {branch.n_steps} or before; set "
            "optim.branch_from=trunk, or null to train all the steps here"
        )
    return Beginning(checkpoint=None)


def note(point: Point, begun: Beginning) -> None:
    """Leaves in a branch's folder how many steps it took over; before its first own one."""
    if point.branch is None or begun.checkpoint is None:
        return
    if begun.checkpoint.parent != point.run_dir:
        text = json.dumps({"trunk": point.branch.trunk_id, "n_steps": begun.taken})
        write_text_atomically(point.run_dir / BRANCH_NAME, text + "\n")
        trunk = {"trunk": point.branch.trunk_id, "step": begun.taken}
        log_event(point.run_dir, "branched", **trunk)


def trunk_column(point: Point, begun: Beginning) -> dict[str, Any]:
    """The record's column of a branch: its trunk, and the steps and FLOPs of both parts."""
    if point.branch is None:
        return {}
    plan, taken = point.plan, begun.taken
    return {
        "run_id": point.branch.trunk_id,
        "n_steps": taken,
        "flops": plan.flops_of(taken),
        "own_steps": plan.n_steps - taken,
        "own_flops": plan.flops_of(plan.n_steps - taken),
    }


def _noted(point: Point) -> int:
    try:
        return int(json.loads((point.run_dir / BRANCH_NAME).read_text())["n_steps"])
    except FileNotFoundError:
        return 0  # it began with its first step
    except (OSError, ValueError, TypeError, LookupError):
        return point.first_step


def _check_trunk(branch: Branch) -> None:
    """That the trunk is where the branch starts, or past it."""
    ended, name = kept.outcome(branch.folder), f"its trunk {branch.trunk_id}"
    if ended is not None and ended.status == "failed":
        raise RuntimeError(
            f"not run: {name} failed, see {branch.folder}; the same command tries both again"
        )
    if ended is not None and ended.n_steps < branch.n_steps and ended.status == "diverged":
        raise TrunkDivergedError(branch.trunk_id, ended.n_steps)
    if ended is None or ended.n_steps < branch.n_steps:
        raise Interrupted(
            f"not run: {name} has not come to step {branch.n_steps}, where this branch starts"
        )
