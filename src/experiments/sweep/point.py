"""A run to be, as the engine sees it: where it is, what it needs, and what it waits for.

What a run computes is its app's (app.py). A language model's point is points/point.py; one of an
ordinary Hydra app is own_app.py's.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records import kept
from experiments.records.files import CHECKPOINT_NAME
from experiments.system.disk import followed


@dataclass(frozen=True, kw_only=True)
class Handling:
    """How the engine deals with a point, by keys of its config. results: the folder of sweeps.

    retry: failed (failed runs are tried again), all (those that diverged too), none. max_retries:
    tries without a new checkpoint. log_every_seconds: between lines of progress.
    """

    sweep: str
    results: str = "results"
    retry: str = "failed"
    dry_run: bool = False
    max_retries: int = 3
    log_every_seconds: float = 15.0


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Needs of a run, to be met by a machine. devices: processes on each of num_nodes nodes.

    gpu: whether it is planned for one; takes_gpu: whether it would take one that is there. n_bytes:
    memory of a process; checkpoint_bytes: of its file. cards_per_node: of the cluster that it is
    planned for; None: of none. 0 bytes: not known.
    """

    devices: int = 1
    num_nodes: int = 1
    gpu: bool = False
    takes_gpu: bool = False
    n_bytes: int = 0
    checkpoint_bytes: int = 0
    cards_per_node: int | None = None

    @property
    def n_processes(self) -> int:
        return self.devices * self.num_nodes


@dataclass(frozen=True, kw_only=True)
class Branch:
    """Where a run leaves another one, its trunk: after n_steps. folder: the trunk's."""

    trunk_id: str
    folder: Path
    n_steps: int


@dataclass(frozen=True, kw_only=True)
class Point(ABC):
    """One run to be. raw: its resolved config, as Hydra composed it; run_id: of what in it can
    change the result. setting: what tells it from points of its sweep that have the same name.
    """

    raw: Mapping[str, Any]
    run_id: str
    setting: str = ""
    branch: Branch | None = None  # where it leaves a trunk

    @property
    @abstractmethod
    def app(self) -> str:
        """Place of its app, as app.find_app takes it."""

    @property
    @abstractmethod
    def handling(self) -> Handling: ...

    @property
    @abstractmethod
    def needs(self) -> Needs: ...

    @property
    @abstractmethod
    def name(self) -> str:
        """In a few words, without setting and trunk. The first one groups points in tables."""

    @property
    @abstractmethod
    def n_steps(self) -> int:
        """Steps of the run, those of its trunk included."""

    @property
    @abstractmethod
    def own_work(self) -> float:
        """Work of its own steps, in its app's unit."""

    @property
    def work_before(self) -> float:
        """Work of the steps that a trunk takes for it."""
        return 0.0

    @property
    def planned(self) -> Mapping[str, float]:
        """Numbers that its progress repeats, n_steps among them."""
        return {"n_steps": self.n_steps}

    @property
    def is_trunk(self) -> bool:
        """Whether its steps are there for branches to start from; it is no result itself."""
        return False

    @property
    def run_dir(self) -> Path:
        """results/<sweep>/<run_id>."""
        return self.sweep_dir / self.run_id

    @property
    def sweep_dir(self) -> Path:
        return followed(Path(self.handling.results).expanduser()) / self.handling.sweep

    @property
    def first_step(self) -> int:
        """Steps that a trunk takes for it."""
        return 0 if self.branch is None else self.branch.n_steps

    @property
    def seed(self) -> int | None:
        seed = self.raw.get("seed")
        return seed if type(seed) is int else None

    def describe(self) -> str:
        """Point in a few words, for progress lines."""
        trunk = "" if self.branch is None else f" from trunk {self.branch.trunk_id}"
        return f"{self.name}{self.setting}{trunk}"

    def waits(self) -> bool:
        """Whether it is a branch that has neither begun nor a checkpoint to start from."""
        if self.branch is None or (self.run_dir / CHECKPOINT_NAME).exists():
            return False
        return not kept.is_there(self.branch.folder, self.branch.n_steps)
