"""Workers that a cluster's own scheduler starts: what the queues of Dask and Ray have in common.

A sweep's points wait in its folder as for any worker (workers.py), and the cluster runs so many
workers (experiments.work) on its nodes, which have to see that folder. The command that gave them
waits. So a worker that is killed costs its point no more than the steps since its checkpoint, and
a cluster that is gone ends the command with a line: given again, it goes on where the points are.
"""

import os
import sys
import time
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.config.constraints import AtLeast1
from experiments.records.files import RECORD_NAME, DamagedError, read_any_record
from experiments.sweep.app import app_of
from experiments.sweep.point import Point
from experiments.sweep.progress import SweepProgress
from experiments.sweep.queue import Outcome, Queue, Task
from experiments.sweep.queues import _waiting
from experiments.system.claims import is_claimed, read_events
from experiments.system.disk import make_folder

_POLL = 1.0  # seconds
_MOST = 3  # workers in a row that end and leave points behind


def work(sweep_dir: str, folder: str, environment: Mapping[str, str]) -> int:
    """Runs a worker to its end, on a node. Returns its exit code. folder: the command's."""
    import subprocess

    command = [sys.executable, "-m", "experiments.work", sweep_dir]
    done = subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=False)
    return done.returncode


@dataclass(frozen=True, kw_only=True)
class Cluster(Queue):
    """address: of the cluster's scheduler. n_workers: points at once; None: as many as fit."""

    title: ClassVar[str] = "the cluster"

    address: str | None = None
    n_workers: AtLeast1 | None = None

    def plan(self, points: Sequence[Point]) -> list[str]:
        place = self.address or "hydra.launcher.address, which is not set"
        return [*super().plan(points), f"{self.title}: workers at {place}"]

    def check(self, points: Sequence[Point], n: int) -> None:
        super().check(points, n)
        if self.address is None:
            raise ValueError(
                f"hydra.launcher.address is not set, and hydra/launcher={self.name()} needs that "
                f"of a scheduler: {self.example()}"
            )
        if points:
            with self.connected():
                pass

    @contextmanager
    def session(self, what: str, planned: Sequence[Point]) -> Iterator["ClusterSession"]:
        with self.connected() as nodes:
            session = ClusterSession(nodes, self.n_workers or nodes.size(), what, planned)
            try:
                yield session
            finally:
                session.close()

    @abstractmethod
    def example(self) -> str:
        """A setting of an address, as people type it."""

    @abstractmethod
    def connected(self) -> Any:
        """Context of Nodes. Raises RuntimeError if the scheduler does not answer, ValueError if its
        package is not installed.
        """


class Nodes:
    """A cluster that answers."""

    @abstractmethod
    def size(self) -> int:
        """How many workers fit at once."""

    @abstractmethod
    def start(self, sweep_dir: str, folder: str, environment: Mapping[str, str]) -> Any:
        """Has `work` run somewhere; its handle."""

    def lack(self) -> str:
        """Why nothing runs, and the remedy; "" if something could."""
        return ""

    @abstractmethod
    def has_ended(self, handle: Any) -> bool:
        """Raises RuntimeError if the cluster is gone."""


class ClusterSession:
    """Keeps so many workers going as there are points for, until none is left."""

    def __init__(self, nodes: Nodes, n_most: int, what: str, planned: Sequence[Point]) -> None:
        self._nodes, self._n_most, self._what = nodes, n_most, what
        seconds = app_of(planned).seconds(planned)
        self._display = SweepProgress(planned, seconds and seconds / n_most)
        self._points: dict[str, Point] = {}
        self._n_before: dict[str, int] = {}  # events of each, when it was put
        self._outcomes: dict[str, Outcome] = {}
        self._handles: list[Any] = []
        self._n_idle = 0  # workers that have ended since a point has
        self._said = ""

    def room(self, n_running: int) -> int:
        return self._n_most - len(self._open())

    def submit(self, points: Sequence[Point], code: Path, tasks: Mapping[str, Task]) -> None:
        if not self._points:
            print(f"{self._what}, {self._n_most} at a time", flush=True)
        self._points |= {point.run_id: point for point in points}
        self._n_before |= {point.run_id: len(read_events(point.run_dir)) for point in points}
        make_folder(points[0].sweep_dir)
        _waiting.put(points[0].sweep_dir, [point.run_id for point in points])

    def outcomes(self, tasks: Mapping[str, Task]) -> Mapping[str, Outcome]:
        return self._outcomes

    def wait(self) -> bool:
        while self._open():
            self._keep_going()
            n_before = len(self._outcomes)
            running = []
            for point in self._open():
                place = point.sweep_dir, point.run_id
                is_there = _waiting.is_there(*place)  # first: a worker writes the end before it
                if _waiting.has_ended(*place, self._n_before[point.run_id]):
                    self._end(point)
                elif is_claimed(point.run_dir):
                    running.append(point)
                elif not is_there:  # another command waited for it too, and has withdrawn it
                    _waiting.put(point.sweep_dir, [point.run_id])
            self._display.update(running)
            if not running and (lack := self._nodes.lack()) not in ("", self._said):
                self._said = lack
                self._display.say(f"{len(self._open())} points wait: {lack}")
            if len(self._outcomes) > n_before:
                self._n_idle = 0
                return True
            time.sleep(_POLL)
        return False

    def close(self) -> None:
        """Withdraws what is left: its workers save and end."""
        for point in self._open():
            _waiting.take_out(point.sweep_dir, point.run_id)
        self._display.close()

    def _open(self) -> list[Point]:
        return [p for run_id, p in self._points.items() if run_id not in self._outcomes]

    def _keep_going(self) -> None:
        """Starts workers in the place of those that have ended."""
        left = self._open()
        ended = [handle for handle in self._handles if self._nodes.has_ended(handle)]
        self._handles = [handle for handle in self._handles if handle not in ended]
        self._n_idle += len(ended)
        if self._n_idle > _MOST * self._n_most:
            raise RuntimeError(
                f"{self._n_idle} workers ended one after another, and {len(left)} points are left; "
                f"see {left[0].run_dir} and the scheduler's own logs"
            )
        environment = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        for _ in range(min(self._n_most, len(left)) - len(self._handles)):
            folder = str(left[0].sweep_dir.resolve())
            self._handles.append(self._nodes.start(folder, str(Path.cwd()), environment))

    def _end(self, point: Point) -> None:
        record = None
        with suppress(FileNotFoundError, DamagedError):
            record = read_any_record(point.run_dir / RECORD_NAME)
        if record is None:
            outcome = Outcome(fate="killed", why="it was given up, without a record")
        else:
            outcome = Outcome(fate="failed" if record.status == "failed" else "done", record=record)
        self._outcomes[point.run_id] = outcome
        self._display.finished(point, outcome.record, outcome.why)
