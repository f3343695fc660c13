"""A worker: it takes the points that wait for workers (queues/workers.py), one after another, and
runs each in a process of this machine (workers.py), until none is left to take.

Several workers, on any machines that see the sweep's folder, share its points by the runs' claims:
each looks for a point that nobody has, and the process that runs it claims it. Of two that start
the same one, one takes another point.
"""

import math
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from experiments.records.finished import find_outcome
from experiments.sweep import manifest
from experiments.sweep.app import app_of_sweep, find_app
from experiments.sweep.entering import enter
from experiments.sweep.manifest import Entry
from experiments.sweep.planning import INTERRUPTED, choose, prepare_all
from experiments.sweep.point import Point
from experiments.sweep.queue import Outcome
from experiments.sweep.queues import _waiting
from experiments.sweep.queues.local import Local
from experiments.sweep.restore import read_raw
from experiments.sweep.snapshot import take_snapshot
from experiments.sweep.states import read_states
from experiments.sweep.status_table import states_text
from experiments.sweep.workers import Pool
from experiments.system.claims import is_claimed, read_events
from experiments.system.plain_text import printable
from experiments.system.requeue import try_again

_LOOK = 1.0  # seconds between two looks whether the point that runs was withdrawn
_WAIT = 5.0  # seconds between two looks for a point, while others run


@dataclass(frozen=True, kw_only=True)
class _Look:
    """What waits at an instant. free: points that nobody has and this worker may take, trunks
    first, for which others wait, then long runs. running: run ids of those that others have.
    """

    free: tuple[Entry, ...]
    running: frozenset[str]

    @property
    def flops(self) -> float:
        return sum(entry.planned_flops for entry in self.free)


class Worker:
    """One command's share of a sweep.

    most: points that it takes; None for all. stays: whether, when no point is free, it waits for
    those that others run, to take what they leave. It waits in any case for a trunk that others
    run, if branches of it are left.
    """

    def __init__(
        self,
        sweep_dir: Path,
        *,
        most: int | None = None,
        stays: bool = False,
        trusted: bool = False,
    ) -> None:
        """Raises ValueError as app_of_sweep."""
        self.sweep_dir, self.stays = sweep_dir, stays
        self._place = app_of_sweep(sweep_dir, trusted=trusted)
        self.most = math.inf if most is None else most
        self.outcomes: list[Outcome] = []
        self.refused: dict[str, str] = {}  # run ids that can't be run here, and why
        self._left: set[str] = set()  # other run ids that it takes no more
        self._known: dict[str, tuple[Entry, Point]] = {}
        self._trunks = False  # whether branches wait for a trunk that others have
        self._reach = 1  # among how many of the first points it chooses
        self._withdrawn = False
        self._said = ""

    def work(self) -> int:
        """Takes and runs points. Returns the exit code: 0, 1 if a point failed here, or 130 if one
        was interrupted.

        Raises ValueError if what is left can't be run here; KeyboardInterrupt, after the point was
        saved, for a signal or if it was withdrawn.
        """
        with ExitStack() as stack:
            pool: Pool | None = None
            while len(self.outcomes) < self.most:
                look = self._look()
                point = self._take(look)
                if point is not None:
                    if pool is None:
                        session = Local(n_workers=1).session(self._what(look), [point])
                        pool = stack.enter_context(session)
                    self._run(point, pool, look)
                elif self._trunks or (self.stays and look.running):
                    self._say_that_it_waits(look)
                    time.sleep(_WAIT)
                else:
                    break
        return self._report()

    def _look(self) -> _Look:
        entries = manifest.load(self.sweep_dir).entries
        waiting = [entries[run_id] for run_id in _waiting.find(self.sweep_dir) & set(entries)]
        running = {e.run_id for e in waiting if is_claimed(self.sweep_dir / e.run_id)}
        passed = running | self._left | self.refused.keys()
        trunks = {entry.trunk for entry in entries.values()}
        free = sorted(
            (entry for entry in waiting if entry.run_id not in passed),
            key=lambda entry: (entry.run_id not in trunks, -entry.planned_flops, entry.line),
        )
        return _Look(free=tuple(free), running=frozenset(running))

    def _take(self, look: _Look) -> Point | None:
        """A point to run; None if none is free now. Workers that find that they want the same ones
        choose among more of the first.
        """
        self._trunks, free = False, list(look.free)
        while free:
            entry = free.pop(random.randrange(min(self._reach, len(free))))
            with manifest.submitting(self.sweep_dir):
                point = self._ready(entry, look)
            if point is not None:
                return point
        return None

    def _ready(self, entry: Entry, look: _Look) -> Point | None:
        """Point of an entry, if it is to be run here now. Under the sweep's lock."""
        run_id = entry.run_id
        try:
            point = self._point(entry)
            Local(n_workers=1).check([point], 1)
            todo = choose([point])
        except ValueError as error:
            self.refused[run_id] = str(error)
            print(printable(f"{entry.label} can't be run here: {error}"), file=sys.stderr)
            return None
        if point in todo.finished or _waiting.is_over(self.sweep_dir, run_id):
            _waiting.take_out(self.sweep_dir, run_id)
            return None
        if point.branch is not None and point.waits():
            trunk = point.branch.trunk_id
            if trunk in look.running or is_claimed(point.branch.folder):
                self._trunks = True
            elif trunk not in {other.run_id for other in look.free}:
                self._left.add(run_id)
                print(f"{point.describe()}: not run: its trunk {trunk} has not come so far")
            return None
        if point not in todo.run or not self._may_try(point):
            return None
        if entry.code != self._code.name:
            enter([point])  # its line says by which code it is run
        return point

    def _point(self, entry: Entry) -> Point:
        """Point of an entry, named as it was with the others of its sweep. Raises ValueError."""
        known = self._known.get(entry.run_id)
        if known is None or known[0] != entry:
            app = find_app(self._place)
            raw = {**read_raw(app, self.sweep_dir, entry), "retry": "failed"}
            (point,) = app.plan([raw], stored=True)
            trunk = point.describe().removeprefix(point.name)
            if entry.label.startswith(point.name):
                setting = entry.label.removeprefix(point.name).removesuffix(trunk)
                point = replace(point, setting=setting)
            known = self._known[entry.run_id] = entry, point
        return known[1]

    def _may_try(self, point: Point) -> bool:
        """Whether one whose process ended without a reason is tried again (requeue.py)."""
        events = read_events(point.run_dir)
        if not events or events[-1]["event"] != "started":
            return True
        why = f"{events[-1]['by']} was killed"
        if try_again(point.run_dir, point.handling.max_retries, "tried again", why):
            return True
        _waiting.take_out(self.sweep_dir, point.run_id)
        print(f"{point.describe()}: {why}, again without a new checkpoint: given up")
        return False

    @cached_property
    def _code(self) -> Path:
        """Copy of this code in the sweep's folder, which points are run from."""
        return take_snapshot(self.sweep_dir, self._place)

    def _what(self, look: _Look) -> str:
        n_others = len(look.running)
        others = f", {n_others} more with other workers" if n_others else ""
        return f"worker of {self.sweep_dir}: {len(look.free)} runs are free{others}"

    def _run(self, point: Point, pool: Pool, look: _Look) -> None:
        """Runs the point to its end, or until another process turns out to have it."""
        prepare_all([point])
        n_workers = len(look.running) + 1
        rest = look.flops - point.own_work  # of which this worker expects its share
        n_expected = math.ceil((len(look.free) - 1) / n_workers)
        n_more = min(n_expected, self.most - len(self.outcomes) - 1)
        share = rest * n_more / max(1, len(look.free) - 1)
        pool.expect(1 + int(n_more), point.own_work + share)
        pool.submit([point], self._code, {})
        pool.say(f"takes {point.describe()}: {point.run_dir}")
        with self._until_withdrawn(point):
            pool.wait()
        outcome = pool.outcomes({})[point.run_id]
        if outcome.fate == "elsewhere":
            self._reach *= 2
            return
        self._reach = 1
        self.outcomes.append(outcome)
        if outcome.fate == "interrupted":
            self._left.add(point.run_id)
        elif pool.room(0) < 1:  # its only GPU does not compute
            raise RuntimeError(f"{point.describe()}: {outcome.why}")
        else:
            _waiting.take_out(self.sweep_dir, point.run_id)

    @contextmanager
    def _until_withdrawn(self, point: Point) -> Iterator[None]:
        """Ends this process as a signal does, after its run has saved, if `cancel` withdraws the
        point meanwhile, on whatever machine.
        """
        over = threading.Event()

        def look() -> None:
            while not over.wait(_LOOK):
                withdrawn = not _waiting.is_there(self.sweep_dir, point.run_id)
                if withdrawn and find_outcome(point.run_dir) is None:
                    self._withdrawn = True
                    os.kill(os.getpid(), signal.SIGTERM)
                    return

        thread = threading.Thread(target=look, name="withdrawn", daemon=True)
        thread.start()
        try:
            yield
        except KeyboardInterrupt:
            if self._withdrawn:
                print(f"{self.sweep_dir} was cancelled; its run saves and ends", file=sys.stderr)
            raise
        finally:
            over.set()
            thread.join()

    def _say_that_it_waits(self, look: _Look) -> None:
        what = f"waits for {len(look.running)} runs of other workers"
        if what != self._said:
            print(what, flush=True)
        self._said = what

    def _report(self) -> int:
        """Prints what this worker did and where the sweep stands. Returns the exit code. Raises
        ValueError for points that are left because they can't be run here.
        """
        fates = Counter(outcome.fate for outcome in self.outcomes)
        mine = ", ".join(f"{n} {fate}" for fate, n in fates.items()) or "no run"
        print(f"this worker: {mine}; {self.sweep_dir}: {states_text(read_states(self.sweep_dir))}")
        if fates["failed"] + fates["killed"]:
            return 1
        if fates["interrupted"]:
            return INTERRUPTED
        left = self.refused.keys() & _waiting.find(self.sweep_dir)
        if left and len(self.outcomes) < self.most:
            raise ValueError(f"{len(left)} points can't be run here: see the lines above")
        return 0
