"""How a sweep's points are entered in its manifest, to be given to a queue: one controller at a
time chooses what is left to do, and all that it writes rests on that choice.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from experiments.sweep import manifest
from experiments.sweep.app import app_of, note_app
from experiments.sweep.planning import Todo, choose, repair_histories, set_aside_diverged
from experiments.sweep.point import Point
from experiments.sweep.queue import read_tasks
from experiments.sweep.snapshot import take_snapshot


@dataclass(frozen=True, kw_only=True)
class Entered:
    """Points to be run, in the manifest by now, and by which copy of the code; None for none."""

    todo: Todo
    code: Path | None


@contextmanager
def entered(points: Sequence[Point]) -> Iterator[Entered]:
    """Enters what is left to do of one sweep's points, after saying what is not.

    Another controller waits until the block has ended: what the block hands to a queue is there
    before the other one asks. One that chose before, to prepare data, may have chosen what
    another has submitted meanwhile; the choice here is the one that holds.
    """
    sweep_dir, name = points[0].sweep_dir, points[0].handling.sweep
    with manifest.submitting(sweep_dir) as claim:
        todo = choose(points, read_tasks(sweep_dir))
        if todo.describe():
            print(f"sweep {name}: {todo.describe()}")
        manifest.adopt(sweep_dir, todo.finished)
        repair_histories(todo.finished)
        code = enter(todo.run)
        claim.check()
        yield Entered(todo=todo, code=code)


def enter(points: Sequence[Point]) -> Path | None:
    """Writes the lines of points that are to be run, only under the sweep's lock. Returns the copy
    of the code that runs them; None for none.
    """
    if not points:
        return None
    sweep_dir, place = points[0].sweep_dir, points[0].app
    set_aside_diverged(points)
    app_of(points).enter(points)
    note_app(sweep_dir, place)
    code = take_snapshot(sweep_dir, place)
    manifest.add(sweep_dir, [manifest.make_entry(point, code.name) for point in points])
    return code
