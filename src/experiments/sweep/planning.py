"""First part of every sweep, by whichever queue: plan all points, choose those to run."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from experiments.records.files import RECORD_NAME
from experiments.records.finished import find_outcome, lacks_rows
from experiments.records.record import CUT_SHORT
from experiments.sweep.app import FIRST, Raw, app_of, check_owner, find_app
from experiments.sweep.point import Point
from experiments.sweep.queue import Task
from experiments.sweep.settings import with_settings
from experiments.system.claims import RunningElsewhereError, claimed, is_claimed, log_event
from experiments.system.disk import check_writable, make_folder, rename

# exit codes of commands whose points are not all done, beside 1 failed: stopped by a signal and
# kept to go on, or in the hands of another process or of a queue
INTERRUPTED, ELSEWHERE = 130, 3


@dataclass(frozen=True, kw_only=True)
class Todo:
    """A sweep's points, sorted by what to do with each."""

    points: tuple[Point, ...]
    run: tuple[Point, ...]
    finished: tuple[Point, ...]
    running: tuple[Point, ...]  # another process has them
    queued: tuple[Point, ...]  # a queue has them, and starts them by itself
    held: tuple[Point, ...]  # a queue has them, and starts them only when it is told to
    failed: tuple[Point, ...]  # before, and not to be tried again
    tasks: Mapping[str, Task]  # the queues' tasks by run id

    def describe(self) -> str:
        """In words, but for what is to be run."""
        held = [self.tasks[point.run_id] for point in self.held]
        releases = "; ".join(str(task.release) for task in held)
        parts = {
            "done already": self.finished,
            "running elsewhere": self.running,
            f"queued in {self._names(self.queued)}": self.queued,
            f"held by {self._names(self.held)}, until {releases}": self.held,
            "failed before and left (retry=none)": self.failed,
        }
        total = len(self.points)
        return "; ".join(
            f"{len(points)} of {total} runs are {what}" for what, points in parts.items() if points
        )

    def _names(self, points: Sequence[Point]) -> str:
        """Queues that have these points."""
        return ", ".join(dict.fromkeys(self.tasks[point.run_id].queue for point in points))


def plan_points(
    raws: Sequence[Raw], *, stored: bool = False, place: str = FIRST
) -> Sequence[Point]:
    """As App.plan of the app of that place. Raises ValueError for a sweep of another app, too."""
    points = find_app(place).plan(raws, stored=stored)
    if points and not stored:
        check_owner(points[0].sweep_dir, place)
    return points


def choose(points: Sequence[Point], tasks: Mapping[str, Task] | None = None) -> Todo:
    """Points to run: all but what is finished, held by a process or in a queue (tasks by run
    id).

    retry, of the config: failed (the default) tries failed runs again, none leaves them, all also
    tries diverged and hopeless ones again, from the start. A damaged record tells nothing: the run
    goes on from its checkpoint. A trunk is a point more, as long as branches wait for one. Raises
    ValueError for branches of a given trunk that has no checkpoint for them.
    """
    retry = points[0].handling.retry if points else "failed"
    names = ("run", "finished", "running", "queued", "held", "failed")
    groups: dict[str, list[Point]] = {name: [] for name in names}
    tasks = tasks or {}
    for point in points:
        groups[_group(point, retry, tasks)].append(point)
    app = app_of(points) if points else find_app(FIRST)
    app.check_trunks(groups["run"])
    unfinished = [p for name in names if name != "finished" for p in groups[name]]
    trunks = with_settings(app.trunks([p for p in unfinished if p.waits()]))
    for trunk in reversed(trunks):
        groups[_group(trunk, retry, tasks)].insert(0, trunk)
    return Todo(
        points=(*trunks, *points),
        tasks=tasks,
        **{name: tuple(group) for name, group in groups.items()},
    )


def _group(point: Point, retry: str, tasks: Mapping[str, Task]) -> str:
    claimed = is_claimed(point.run_dir)
    outcome = find_outcome(point.run_dir)  # after the claim: the run may end in between
    status, task = outcome and outcome.status, tasks.get(point.run_id)
    if claimed:
        return "running"
    if task is not None:
        return "held" if task.release is not None else "queued"
    goes_on = point.is_trunk and outcome is not None and outcome.n_steps < point.n_steps
    if (status == "done" and not goes_on) or (status in CUT_SHORT and retry != "all"):
        return "finished"
    return "failed" if status == "failed" and retry == "none" else "run"


def read_status(run_dir: Path) -> str | None:
    """That of the run's record; None if it has none. A damaged one is none: execute sets it aside,
    and runs the point again from its checkpoint.
    """
    outcome = find_outcome(run_dir)
    return None if outcome is None else outcome.status


def repair_histories(points: Sequence[Point]) -> None:
    """Writes the rows that a loss of power has taken from finished runs, from their checkpoints."""
    for point in points:
        outcome = find_outcome(point.run_dir)
        if outcome is not None and lacks_rows(point.run_dir, outcome):
            app_of(points).repair(point)


def set_aside_diverged(points: Sequence[Point]) -> None:
    """Makes room for diverged and hopeless runs to start again, where retry=all asks for that:
    record and checkpoints go to diverged-<n>/ or hopeless-<n>/. One that another process has by now
    is left to it.
    """
    for point in points:
        if point.handling.retry != "all" or read_status(point.run_dir) not in CUT_SHORT:
            continue  # what has ended since it was chosen, too
        with suppress(RunningElsewhereError), claimed(point.run_dir):
            status = read_status(point.run_dir)
            if status not in CUT_SHORT:
                continue
            n = len(list(point.run_dir.glob(f"{status}-*"))) + 1
            aside = point.run_dir / f"{status}-{n}"
            make_folder(aside)
            for path in [point.run_dir / RECORD_NAME, *point.run_dir.glob("*.ckpt")]:
                rename(path, aside / f"{path.name}.old")  # no record to any table
            log_event(point.run_dir, "set aside")


def prepare_all(points: Sequence[Point]) -> None:
    """Has the app fetch or make what its runs need, once; and before that, looks whether results
    can be written.

    Raises RuntimeError, with path, reason and remedy, if they can't.
    """
    if points:
        check_writable(points[0].sweep_dir)
        app_of(points).prepare(points)
