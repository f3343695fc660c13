"""Points of a sweep in processes of this machine, some at a time, and the outcome of each."""

import multiprocessing as mp
import os
import signal
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from experiments.records.files import RECORD_NAME, read_any_record
from experiments.records.finished import find_outcome
from experiments.sweep.app import FIRST, Raw, app_of, find_app
from experiments.sweep.planning import ELSEWHERE, INTERRUPTED, plan_points
from experiments.sweep.point import Point
from experiments.sweep.progress import Heartbeat, SweepProgress
from experiments.sweep.queue import Outcome, Task
from experiments.sweep.snapshot import run_from
from experiments.sweep.states import LOG_NAME
from experiments.system import cards, environment, interruption
from experiments.system.claims import (
    RunLostError,
    RunningElsewhereError,
    is_claimed,
    log_event,
    read_events,
    whoami,
)
from experiments.system.disk import explained, make_folder, opened, refuse_links_in
from experiments.system.requeue import NO_GPU, STALLED, try_again
from experiments.system.sockets import shorten_sockets
from experiments.system.text_table import duration

# a worker's exit codes, beside 0 done, 1 failed, INTERRUPTED, ELSEWHERE and STALLED
LOST, NO_TRUNK, CARDLESS = 4, 5, 6
_POLL = 0.1  # seconds


@dataclass(frozen=True, kw_only=True)
class _Worker:
    point: Point
    process: BaseProcess
    slot: int


class Pool:
    """Processes, short-lived, forked from a server that has imported everything once; a queue's
    Session.

    slots: one for each that may run at once, with the GPU of a point that is planned for one. A
    slot whose GPU does not compute is closed, and its point goes to another. A point whose process
    was killed or stalled is started again, from its checkpoint, as often as requeue.py allows; one
    that fails with an exception is not.
    """

    def __init__(self, slots: Sequence[str | None], what: str, planned: Sequence[Point]) -> None:
        self._app = app_of(planned)
        self.what, one_by_one = what, self._app.seconds(planned)
        self._estimate = one_by_one and one_by_one / len({*slots})
        self._slots = dict(enumerate(slots))
        self._threads = max(1, environment.usable_cores() // len(slots))
        self._queue: list[Point] = []
        self._running: list[_Worker] = []
        self._outcomes: dict[str, Outcome] = {}
        self._context = mp.get_context("forkserver")
        self._display = SweepProgress(planned, self._estimate)
        self._code: Path | None = None

    def room(self, n_running: int) -> int:
        return len(self._slots) - len(self._running) - len(self._queue)

    def submit(self, points: Sequence[Point], code: Path, tasks: Mapping[str, Task]) -> None:
        """To be started by wait(), trunks first, for which others wait, then long runs: no long
        tail.
        """
        if self._code is None:
            self._code = code
            seconds = self._estimate
            said = "" if seconds is None else f", est. time {duration(seconds)}"
            print(f"{self.what}, {len(self._slots)} at a time{said}", flush=True)
            run_from(code)
            os.environ.setdefault("OMP_NUM_THREADS", str(self._threads))
            shorten_sockets()
            self._context.set_forkserver_preload([*self._app.modules])
        self._queue += sorted(points, key=lambda p: (not p.is_trunk, -p.own_work))

    def outcomes(self, tasks: Mapping[str, Task]) -> Mapping[str, Outcome]:
        return self._outcomes

    def wait(self) -> bool:
        """Until a point has ended, while others go on; False once none is left."""
        while self._queue or self._running:
            self._start()
            n_before = len(self._outcomes)
            for worker in [w for w in self._running if w.process.exitcode is not None]:
                self._running.remove(worker)
                self._end(worker)
            self._display.update([w.point for w in self._running])
            if len(self._outcomes) > n_before:
                return True
            time.sleep(_POLL)
        return False

    def expect(self, n_points: int, flops: float) -> None:
        """So many points, of these FLOPs in all, are under way or will be submitted."""
        self._display.expect(n_points, flops)

    def say(self, line: str) -> None:
        """A line, beside the progress."""
        self._display.say(line)

    def close(self) -> None:
        """Ends what still runs, and waits until it has saved."""
        for worker in self._running:
            worker.process.terminate()
        self._display.close()
        _wait_for([w.process for w in self._running])

    def _start(self) -> None:
        """A process in each free slot, for a point that waits for none of the others."""
        taken = {worker.slot for worker in self._running}
        free = [slot for slot in self._slots if slot not in taken]
        ours = {p.run_id for p in self._queue} | {w.point.run_id for w in self._running}
        ready = (p for p in [*self._queue] if not _waits(p, ours))
        for slot, point in zip(free, ready):
            self._queue.remove(point)
            card = self._slots[slot] if point.needs.gpu else None
            given = dict(point.raw), self._threads, card, point.app
            process = self._context.Process(target=_work, args=given, name=point.run_id)
            process.start()
            interruption.note_begun()
            self._running.append(_Worker(point=point, process=process, slot=slot))

    def _end(self, worker: _Worker) -> None:
        """Its outcome, unless it is tried again."""
        if worker.process.exitcode == CARDLESS:
            self._close_slot(worker)
            return
        point, outcome = worker.point, _outcome(worker)
        if outcome.fate == "killed" and _may_try_again(point, outcome.why):
            self._display.say(f"{point.describe()}: {outcome.why}; tried again")
            self._queue.insert(0, point)
        else:
            self._outcomes[point.run_id] = outcome
            if outcome.fate == "elsewhere":
                self._display.passed_over(point, outcome.why)
            else:
                self._display.finished(point, outcome.record, outcome.why)

    def _close_slot(self, worker: _Worker) -> None:
        """Nothing more is run there, and if it was the last one, nothing at all."""
        why = _last_why(worker.point.run_dir)
        card = self._slots.pop(worker.slot)
        self._display.say(f"GPU {card}: {why}; it gets no more points")
        self._queue.insert(0, worker.point)
        if not self._slots:
            for point in self._queue:
                outcome = Outcome(fate="failed", why=f"not run: {why}")
                self._outcomes[point.run_id] = outcome
                self._display.finished(point, None, outcome.why)
            self._queue.clear()


def _last_why(run_dir: Path, default: str = "") -> str:
    """Reason in the last line of a run's journal."""
    events = read_events(run_dir)
    return str(events[-1].get("why", default)) if events else default


def _waits(point: Point, ours: Collection[str]) -> bool:
    """Whether a branch's trunk has yet to get to its start, and one of our processes, or another's,
    is about to take it there. If none is, the branch's own process says what is wrong.
    """
    if point.branch is None or not point.waits():
        return False
    return point.branch.trunk_id in ours or is_claimed(point.branch.folder)


def _wait_for(processes: Sequence[BaseProcess]) -> None:
    """Until they have saved and ended; a further signal doesn't change that."""
    while True:
        try:
            with interruption.waiting():
                for process in processes:
                    process.join()
            return
        except KeyboardInterrupt:
            n = sum(process.exitcode is None for process in processes)
            print(f"waiting for {n} runs to save and end", file=sys.stderr, flush=True)


def _may_try_again(point: Point, why: str) -> bool:
    try:
        return try_again(point.run_dir, point.handling.max_retries, "tried again", why)
    except (OSError, RuntimeError) as error:  # a full disk: the journal can't be written
        print(f"{point.run_dir}: {error}", file=sys.stderr)
        return False


def _outcome(worker: _Worker) -> Outcome:
    run_dir, code = worker.point.run_dir, worker.process.exitcode
    if code == ELSEWHERE:
        had = find_outcome(run_dir) is not None and not is_claimed(run_dir)
        return Outcome(fate="elsewhere", why=f"left: another process {'had' if had else 'has'} it")
    if code == INTERRUPTED:
        return Outcome(
            fate="interrupted", why="interrupted; the same command goes on from its checkpoint"
        )
    if code == NO_TRUNK:
        why = _last_why(run_dir, "not run: its trunk has not come so far")
        return Outcome(fate="interrupted", why=why)
    if code == LOST:
        return Outcome(
            fate="failed", why="ended: its folder was moved or removed, or its claim deleted"
        )
    log = run_dir / LOG_NAME
    if code not in (0, 1):
        if is_claimed(run_dir):  # the server between us was killed, the run was not
            why = "still running, but not under this command; the same command adopts it"
            return Outcome(fate="elsewhere", why=why)
        return Outcome(fate="killed", why=f"{_ending(code)}; see {log}")
    try:
        record = read_any_record(run_dir / RECORD_NAME)
    except (OSError, ValueError):
        return Outcome(fate="failed", why=f"failed without a record; see {log}")
    return Outcome(fate="failed" if record.status == "failed" else "done", record=record)


def _ending(code: int | None) -> str:
    """An exit code in words."""
    if code == STALLED:
        return "stalled: no step for trainer.stall_minutes"
    if code is not None and code < 0:
        known = -code in set(signal.Signals)
        return f"killed by {signal.Signals(-code).name if known else f'signal {-code}'}"
    return f"killed: its process ended with {code}"


def _work(raw: Raw, n_threads: int, card: str | None, place: str = FIRST) -> None:
    """A worker's whole life: one point, its output in log.txt. card: its GPU. place: its app's."""
    try:
        interruption.listen()
        with interruption.bounded(INTERRUPTED):
            code = _work_on(raw, n_threads, card, place)
    except KeyboardInterrupt:  # before the run's own log, and the controller says that it ends
        code = INTERRUPTED
    interruption.ending()
    raise SystemExit(code)


def _work_on(raw: Raw, n_threads: int, card: str | None, place: str) -> int:
    """Exit code of a worker."""
    if card is not None:
        cards.show_only(card)  # before the point, which asks what is here
    (point,) = plan_points([raw], stored=True, place=place)
    terminal = os.dup(sys.stderr.fileno())
    try:
        redirect_output(point.run_dir / LOG_NAME)
        code = _work_in_log(point, n_threads, card)
    except RuntimeError as error:  # with a disk that takes no log, the terminal has to say it
        for descriptor in (sys.stderr.fileno(), terminal):
            with suppress(OSError):
                os.write(descriptor, f"error: {error}\n".encode())
        code = LOST if isinstance(error, RunLostError) else 1
    return code


def _work_in_log(point: Point, n_threads: int, card: str | None) -> int:
    """Exit code of a worker."""
    if card is not None and (why := cards.why_not_open()) is not None:
        log_event(point.run_dir, NO_GPU, why=why)
        print(why, file=sys.stderr)
        return CARDLESS
    try:
        record = find_app(point.app).execute(point, Heartbeat(point), n_threads)
    except KeyboardInterrupt as error:
        interruption.ending()
        print(f"interrupted: {error}", file=sys.stderr)
        return INTERRUPTED if interruption.received() else NO_TRUNK
    except RunningElsewhereError as error:
        print(error, file=sys.stderr)
        return ELSEWHERE
    if not any(event["by"] == whoami() for event in read_events(point.run_dir)):
        return ELSEWHERE  # another process had it to its end, just before this one
    if record.error:
        print(record.error, file=sys.stderr)
    return int(record.status == "failed")


def redirect_output(path: Path) -> None:
    """All output of this process to a file from now on, which its owner alone can read."""
    with explained(path):
        make_folder(path.parent)
        refuse_links_in(path.parent)
        log = opened(path, "ab", permissions=0o600)
    with log:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(log.fileno(), stream.fileno())
