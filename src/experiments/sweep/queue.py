"""A queue takes a sweep's points and has them run: what stands behind a launcher.

A file of sweep/queues/ is a queue: one class that extends Queue. (Files with an underscore are what
queues are made of.) Its fields are the keys of conf/hydra/launcher/NAME.yaml, and NAME is the
file's. It is found by itself, and all other code asks what is here and names none
(README.md beside it, "A launcher").

Quick to import: `status` asks queues about sweeps and needs no torch. What runs points is imported
where it is used.
"""

import importlib
import pkgutil
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar, Literal, Protocol, Self

from experiments.records.app_record import Record
from experiments.sweep.point import Point
from experiments.system.requeue import try_again

Fate = Literal["done", "failed", "interrupted", "elsewhere", "killed"]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A point that a queue has, or had.

    queue: its name for people. job: the task's name there, as 12_3. detail: why it waits, or how it
    ended, in words. release: the command that lets it start, if it is held until somebody gives
    that. log: the file of its output, which need not be there.
    """

    queue: str
    job: str
    detail: str = ""
    release: str | None = None
    log: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a point ended in a queue's hands; a diverged one is done. record: None if it wrote none;
    then why says the reason.
    """

    fate: Fate
    record: Record | None = None
    why: str = ""


class Session(Protocol):
    """A command's dealings with a queue, from its first points to the last."""

    def room(self, n_running: int) -> int | None:
        """How many more points of a search it would take now, beside those that run; None: one
        trial of each cell.
        """
        ...

    def submit(self, points: Sequence[Point], code: Path, tasks: Mapping[str, Task]) -> None:
        """Takes the points, to be run by this copy of the code, and says so. Under the sweep's
        lock, so that nothing is run here.

        tasks: what is queued already, by run id. A branch must not start before its trunk has ended
        (trunks.py). Raises RuntimeError if they are refused, with the reason.
        """
        ...

    def outcomes(self, tasks: Mapping[str, Task]) -> Mapping[str, Outcome]:
        """Those of the points that it was given that have ended and won't be tried again. tasks:
        what is queued now.
        """
        ...

    def wait(self) -> bool:
        """Until a point may have ended; False if this command has nothing to wait for."""
        ...


class Job(Protocol):
    """A queue's task, to the processes that run in it."""

    def at_time_limit(self, signal: str | None) -> bool:
        """Whether this signal, as SIGUSR1, says that the job's time is over soon, and this process,
        of rank 0, acts for the job. One that is cancelled or preempted gets another signal, or at
        another time.
        """
        ...

    def n_restarts(self) -> int:
        """How often the queue has started it again."""
        ...

    def requeue(self) -> bool:
        """Puts it back into the queue; whether that was done. If it was refused, says why."""
        ...


@dataclass(frozen=True, kw_only=True)
class Queue(ABC):
    """Settings of a queue, and what is asked of it. Only `session` has to be written.

    title: its name for people. stays: whether the command that gives it points waits until they
    have ended. Then exit code 0 is for all done, else for all that are submitted too.
    starts_ranks: whether it starts several processes for a point that asks for them. searches:
    whether it takes the trials of a search, of which a command draws the next ones.
    """

    title: ClassVar[str] = "this machine"
    stays: ClassVar[bool] = True
    starts_ranks: ClassVar[bool] = False
    searches: ClassVar[bool] = True

    @classmethod
    def name(cls) -> str:
        """That of its file, of its yaml, and of its folder in a sweep if it has one."""
        return cls.__module__.rpartition(".")[2]

    def check(self, points: Sequence[Point], n: int) -> None:
        """Raises ValueError, before anything is written, if it can't run these points, of which n
        are to come.
        """
        for point in points:
            needs = point.needs
            if needs.n_processes > 1 and not self.starts_ranks:
                raise ValueError(
                    f"trainer.devices={needs.devices} and trainer.num_nodes={needs.num_nodes} "
                    f"with hydra/launcher={self.name()}, which gives each point one process; use "
                    f"hydra/launcher={launchers(of_ranks=True)}, or start single runs with torchrun"
                )

    def plan(self, points: Sequence[Point]) -> list[str]:
        """Lines for a dry run: how it would run these points. Raises ValueError as check does, but
        for what this machine lacks.
        """
        Queue.check(self, points, len(points))
        return []

    @abstractmethod
    def session(self, what: str, planned: Sequence[Point]) -> AbstractContextManager[Session]:
        """A command's session with it. planned: the points to come, or of a search points like
        them; what: all these in words. At its end nothing goes on that needs this process.
        """

    @classmethod
    def tasks(cls, sweep_dir: Path) -> dict[str, Task]:
        """Sweep's points that it has, waiting or running, by run id.

        Raises RuntimeError if that can't be known: what is queued must not be taken for lost.
        """
        return {}

    @classmethod
    def ended(cls, sweep_dir: Path) -> dict[str, Task]:
        """Latest task of each of the sweep's runs that it remembers, by run id."""
        return {}

    @classmethod
    def cancel(cls, sweep_dir: Path) -> int:
        """Withdraws the sweep's tasks; those that run save and end. Returns how many there were."""
        return 0

    @classmethod
    def last(cls, sweep_dir: Path, *, trusted: bool = False) -> tuple[str, Self] | None:
        """Settings with which it was last given points of this sweep, to be asked for again,
        and when; None if it was not, or keeps none. Raises ValueError for settings that a shell
        would run, and that another may have written, unless they are trusted.
        """
        return None

    @staticmethod
    def job() -> Job | None:
        """Its task that this process runs in, by the environment."""
        return None


@cache
def queues() -> tuple[type[Queue], ...]:
    """Every queue that was found, in the order of their files' names."""
    from experiments.sweep import queues as room

    found = []
    for module in pkgutil.iter_modules(room.__path__, f"{room.__name__}."):
        if module.name.rpartition(".")[2].startswith("_"):
            continue
        names = vars(importlib.import_module(module.name))
        found += [
            value
            for value in names.values()
            if isinstance(value, type)
            and issubclass(value, Queue)
            and value.__module__ == module.name
        ]
    return tuple(found)


def queue_named(name: str) -> type[Queue]:
    """Raises ValueError for a name that is none's."""
    known = {queue.name(): queue for queue in queues()}
    if name not in known:
        raise ValueError(f"hydra.launcher.queue={name} is not one of {', '.join(known)}")
    return known[name]


def launchers(*, of_ranks: bool = False, of_searches: bool = False) -> str:
    """Choices of hydra/launcher in a message, with `or` before the last."""
    fit = [q for q in queues() if q.starts_ranks or not of_ranks]
    *names, last = (q.name() for q in fit if q.searches or not of_searches)
    return f"{', '.join(names)} or {last}" if names else last


def read_tasks(sweep_dir: Path) -> dict[str, Task]:
    """Queue.tasks of all queues."""
    return {run_id: t for queue in queues() for run_id, t in queue.tasks(sweep_dir).items()}


def ended_tasks(sweep_dir: Path) -> dict[str, Task]:
    """Queue.ended of all queues."""
    return {run_id: t for queue in queues() for run_id, t in queue.ended(sweep_dir).items()}


def last_used(sweep_dir: Path, *, trusted: bool = False) -> Queue | None:
    """Queue, with its settings, that was given points of the sweep last. Raises as its last."""
    asked = (queue.last(sweep_dir, trusted=trusted) for queue in queues())
    found = [last for last in asked if last is not None]
    return max(found, key=lambda last: last[0])[1] if found else None


def own_job() -> Job | None:
    """Task that this process runs in, of whichever queue."""
    return next((job for queue in queues() if (job := queue.job()) is not None), None)


def requeue_point(job: Job | None, run_dir: Path | None, max_retries: int, why: str) -> bool:
    """Puts this process's own job back into its queue, unless it makes no progress. Says so.

    run_dir: None if it isn't known; the queue's count of restarts is taken for that of the tries.
    Returns whether it is in the queue again.
    """
    if job is None:
        return False
    if run_dir is None:
        more = job.n_restarts() < max_retries
    else:
        more = try_again(run_dir, max_retries, "requeued", why)
    if not more:
        print(f"no new checkpoint in {max_retries + 1} tries: not requeued", file=sys.stderr)
        return False
    return job.requeue()
