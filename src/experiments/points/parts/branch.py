"""Trunks and branches: the steps before the decay, trained once for runs of many budgets.

A run with optim.schedule=wsd and optim.warmup_tokens is, up to its decay, the same run whatever its
budget: weights, moments, order of the text, random numbers and rates, to the bit. A trunk
(optim.schedule=trunk) takes these steps once, and keeps a checkpoint where each branch starts. A
branch (optim.branch_from) goes on from there and decays: Haegele 2024 (arXiv:2405.18392), Sec. 4.

A trunk has every setting of its branches but the budget and the decay, and its id leaves these out.
So a larger budget goes on with the same trunk, where that had ended.
"""

import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.budget.plan import Plan
from experiments.config.schedules import TRUNK
from experiments.config.schema import RunConfig
from experiments.optim.schedule import start_step
from experiments.points.identity import compute_id
from experiments.points.point import Draft, Point, RunPart
from experiments.points.training_part import DivergedError
from experiments.records import kept
from experiments.records.finished import find_outcome
from experiments.records.record import RunRecord
from experiments.sweep.point import Branch
from experiments.system import distributed
from experiments.system.agreement import told_by_all
from experiments.system.claims import log_event
from experiments.system.disk import followed, reached, remove, write_text_atomically
from experiments.system.interruption import Interrupted
from experiments.system.json_files import read_json

BRANCH_NAME = "branch.json"  # in a branch's folder: how many steps it took over
_OF_DECAY = ("decay", "decay_tokens", "decay_shape", "final_lr")  # of optim


def trunk_raw(raw: Mapping[str, Any], budget: float) -> dict[str, Any]:
    """Config of a branch's trunk, as long as a budget in training FLOPs says."""
    optim = {**raw["optim"], "schedule": TRUNK, "branch_from": None}
    return {**raw, "budget": budget, "optim": optim}


def _identity(identity: dict[str, Any]) -> dict[str, Any]:
    """Without the place of a branch's trunk; of a trunk, its length and its branches' decay."""
    optim = identity["optim"]
    if optim.get("branch_from"):
        return {**identity, "optim": {**optim, "branch_from": TRUNK}}
    if optim.get("schedule") != TRUNK:
        return identity
    kept_of_optim = {k: v for k, v in optim.items() if k not in _OF_DECAY}
    return {k: v for k, v in identity.items() if k != "budget"} | {"optim": kept_of_optim}


def _refuse(what: str, draft: Draft) -> None:
    config = draft.config
    if config.init is not None or config.continual is not None:
        raise ValueError(
            f"{what} with weights to start from: a trunk starts from random weights, for what is "
            "grown or kept may depend on the budget; set init=none and continual=none"
        )
    if draft.stages:
        raise ValueError(f"{what} with data=stream: each of its stages decays; set another data")


@dataclass(frozen=True, kw_only=True)
class TrunkSteps(RunPart):
    """A trunk, which no branch has left yet."""

    order = 90
    is_result = False
    by_columns = True

    @classmethod
    def of(cls, config: RunConfig) -> "TrunkSteps | None":
        return cls() if config.optim.schedule == TRUNK else None

    def identity(self, identity: dict[str, Any]) -> dict[str, Any]:
        return _identity(identity)

    def refuse(self, draft: Draft) -> None:
        _refuse("optim.schedule=trunk", draft)

    def note(self, point: Point) -> str:
        return f"trunk {point.run_id} "


@dataclass(frozen=True, kw_only=True)
class BranchSteps(RunPart):
    """A run that leaves a trunk. place: the trunk's folder, or "trunk" if the sweep trains it."""

    order = 90
    by_columns = True
    place: str

    @classmethod
    def of(cls, config: RunConfig) -> "BranchSteps | None":
        place = config.optim.branch_from
        return None if place is None else cls(place=place)

    def identity(self, identity: dict[str, Any]) -> dict[str, Any]:
        return _identity(identity)

    def refuse(self, draft: Draft) -> None:
        _refuse(f"optim.branch_from={self.place}", draft)

    def branch(self, draft: Draft, plan: Plan) -> Branch:
        """Raises ValueError for a path that is not that of the trunk that the settings name."""
        config = draft.config
        trunk = trunk_raw(draft.raw, config.budget)
        trunk_id = compute_id(trunk, draft)
        folder = followed(Path(config.paths.results).expanduser()) / config.sweep / trunk_id
        if self.place != TRUNK:
            folder = reached(Path(self.place).expanduser())
            if folder.name != trunk_id:
                raise ValueError(
                    f"optim.branch_from={self.place} is not the trunk of this point, whose run id "
                    f"is {trunk_id}: a trunk has all settings of its branch but budget and decay; "
                    "set optim.branch_from=trunk to train it"
                )
        start = start_step(config.optim, plan.n_steps, plan.batch_tokens)
        return Branch(trunk_id=trunk_id, folder=folder, n_steps=start)

    def note(self, point: Point) -> str:
        branch = _find_branch(point)
        return f"from step {branch.n_steps} of trunk {branch.trunk_id} "

    def checkpoint(self, point: Point) -> Path | None:
        """Trunk's checkpoint that leads to the branch's start.

        Where the trunk has gone past the start and kept no checkpoint of it, that is an earlier
        one, or none: the branch takes more steps itself, to the same bits. Raises DivergedError,
        RuntimeError if the trunk failed, and Interrupted if it is not so far.
        """
        branch = _find_branch(point)
        if not kept.kept_path(branch.folder, branch.n_steps).exists():
            _check_trunk(branch)
        there = {path.name: n for n, path in kept.usable(branch.folder, branch.n_steps)}
        # rank 0's list: a file may come to the others' disks a little later
        other, taken = distributed.is_other_rank(point.ranks), 0
        found: Path | None = None
        for name, n_steps in json.loads(told_by_all(point.ranks, json.dumps(there))[0]).items():
            path = branch.folder / name
            why = point.look_at(path).why
            if why is None:
                found, taken = path, n_steps
                break
            if not other:
                warnings.warn(f"{path} is damaged ({why}); it is ignored", stacklevel=2)
        if found is None and self.place != TRUNK:
            raise RuntimeError(
                f"{branch.folder} has no whole checkpoint of step {branch.n_steps} or before; set "
                "optim.branch_from=trunk, or null to train all the steps here"
            )
        if taken and not other:  # in the branch's folder, before its first own step
            text = json.dumps({"trunk": branch.trunk_id, "n_steps": taken})
            write_text_atomically(point.run_dir / BRANCH_NAME, text + "\n")
            log_event(point.run_dir, "branched", trunk=branch.trunk_id, step=taken)
        elif not other:
            remove(point.run_dir / BRANCH_NAME)
        return found

    def columns(self, point: Point) -> dict[str, Any]:
        """Its trunk, and the steps and FLOPs of both parts."""
        plan, taken = point.plan, _noted(point)
        trunk = {
            "run_id": _find_branch(point).trunk_id,
            "n_steps": taken,
            "flops": plan.count_flops(taken),
            "own_steps": plan.n_steps - taken,
            "own_flops": plan.count_flops(plan.n_steps - taken),
        }
        return {"trunk": trunk}

    def ended(self, point: Point, record: RunRecord) -> None:
        """Lets go of the trunk's checkpoint, unless the branch is tried again."""
        if record.status != "failed":
            kept.release(_find_branch(point).folder, point.run_id)


def _find_branch(point: Point) -> Branch:
    assert point.branch is not None
    return point.branch


def _noted(point: Point) -> int:
    try:
        return int(read_json(point.run_dir / BRANCH_NAME)["n_steps"])
    except FileNotFoundError:
        return 0  # it began with its first step
    except (OSError, ValueError, TypeError, LookupError):
        return point.first_step


def _check_trunk(branch: Branch) -> None:
    """That the trunk is where the branch starts, or past it."""
    ended, name = find_outcome(branch.folder), f"its trunk {branch.trunk_id}"
    if ended is not None and ended.status == "failed":
        raise RuntimeError(
            f"not run: {name} failed, see {branch.folder}; the same command tries both again"
        )
    if ended is not None and ended.n_steps < branch.n_steps and ended.status == "diverged":
        raise DivergedError(f"not run: {name} diverged at step {ended.n_steps}", ended.n_steps)
    if ended is None or ended.n_steps < branch.n_steps:
        raise Interrupted(
            f"not run: {name} has not come to step {branch.n_steps}, where this branch starts"
        )
