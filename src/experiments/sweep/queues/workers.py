"""Workers: points wait in the sweep's folder until a worker takes them (experiments.work), on any
machine that sees the folder.
"""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

from experiments.config.reading import read
from experiments.sweep import submission
from experiments.sweep.control import is_driven
from experiments.sweep.manifest import submitting
from experiments.sweep.point import Point
from experiments.sweep.queue import Outcome, Queue, Task
from experiments.sweep.queues import _waiting
from experiments.sweep.submission import Submission

TITLE = "workers"


@dataclass(frozen=True, kw_only=True)
class Workers(Queue):
    """It has no settings: each worker has those of its machine."""

    title: ClassVar[str] = TITLE
    stays: ClassVar[bool] = False
    searches: ClassVar[bool] = False

    def plan(self, points: Sequence[Point]) -> list[str]:
        return [*super().plan(points), f"workers: {_command(points)}"]

    @contextmanager
    def session(self, what: str, planned: Sequence[Point]) -> Iterator["_Session"]:
        yield _Session(what)

    @classmethod
    def tasks(cls, sweep_dir: Path) -> dict[str, Task]:
        """Those that were left to workers, or wait for a command that is there. Of a cluster's
        command that was killed nobody starts workers: who gives it again gets its points.
        """
        waiting = cls.waiting(sweep_dir)
        if waiting and not is_driven(sweep_dir):
            waiting &= submission.run_ids(sweep_dir / _waiting.FOLDER)
        detail = f"until python -m experiments.work {shlex.quote(str(sweep_dir))} takes it"
        return dict.fromkeys(waiting, Task(queue=TITLE, job=TITLE, detail=detail))

    @staticmethod
    def waiting(sweep_dir: Path) -> set[str]:
        """Run ids of the points that a worker would take."""
        found = _waiting.find(sweep_dir)
        return {run_id for run_id in found if not _waiting.is_over(sweep_dir, run_id)}

    @staticmethod
    def clean(sweep_dir: Path) -> None:
        """Takes out points that are over: a worker was killed, and its run came to its end."""
        with submitting(sweep_dir):
            for run_id in _waiting.find(sweep_dir):
                if _waiting.is_over(sweep_dir, run_id):
                    _waiting.take_out(sweep_dir, run_id)

    @classmethod
    def cancel(cls, sweep_dir: Path) -> int:
        waiting = _waiting.find(sweep_dir)
        for run_id in waiting:
            _waiting.take_out(sweep_dir, run_id)
        return len(waiting)

    @classmethod
    def last(cls, sweep_dir: Path, *, trusted: bool = False) -> tuple[str, Self] | None:
        folder = sweep_dir / _waiting.FOLDER
        found = submission.last(folder, lambda given: read(cls, given), (), trusted)
        return None if found is None else (found.name, cls())


class _Session:
    """Puts points where workers look, and has nothing to wait for."""

    def __init__(self, what: str) -> None:
        self.what = what

    def room(self, n_running: int) -> int:
        return 0

    def submit(self, points: Sequence[Point], code: Path, tasks: Mapping[str, Task]) -> None:
        sweep_dir = points[0].sweep_dir
        run_ids = tuple(point.run_id for point in points)
        given = Submission(
            name=submission.new_name(),
            run_ids=run_ids,
            code=code.name,
            devices=1,
            num_nodes=1,
            resources={},
        )
        submission.write(sweep_dir / _waiting.FOLDER, given)
        _waiting.put(sweep_dir, run_ids)
        print(f"{self.what} wait for workers; start one, or several: {_command(points)}")

    def outcomes(self, tasks: Mapping[str, Task]) -> dict[str, Outcome]:
        return {}

    def wait(self) -> bool:
        return False


def _command(points: Sequence[Point]) -> str:
    """That of a worker of these points."""
    from experiments.sweep.again import sweep_command

    handling = points[0].handling
    return sweep_command("work", handling.sweep, handling.results)
