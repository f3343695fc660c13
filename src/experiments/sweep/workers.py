"""Points of a sweep in processes of this machine, some at a time, and the outcome of each."""

import multiprocessing as mp
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Literal

import torch

from experiments.point import Point, make_point
from experiments.records import RECORD_NAME, RunRecord, read_record
from experiments.sweep.planning import ELSEWHERE, INTERRUPTED, Raw
from experiments.sweep.progress import Heartbeat, SweepProgress
from experiments.sweep.states import LOG_NAME
from experiments.sweep.trunks import waits
from experiments.system import environment, interruption
from experiments.system.claims import (
    RunLostError,
    RunningElsewhereError,
    is_claimed,
    read_events,
)
from experiments.system.disk import explained, refuse_links
from experiments.system.requeue import STALLED, try_again
from experiments.system.sockets import shorten_sockets

# a worker's exit codes, beside 0 done, 1 failed, INTERRUPTED, ELSEWHERE and STALLED
LOST, NO_TRUNK = 4, 5
_POLL = 0.1  # seconds

Fate = Literal["done", "failed", "interrupted", "elsewhere", "killed"]
More = Callable[[int, Mapping[str, "Outcome"]], Sequence[Point]]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The outcome of a worker's point. record: None if it wrote none; then why says the reason."""

    fate: Fate
    record: RunRecord | None = None
    why: str = ""


@dataclass(frozen=True, kw_only=True)
class _Worker:
    point: Point
    process: BaseProcess
    device: int


def run_all(
    points: Sequence[Point],
    n_workers: int,
    name: str,
    more: More | None = None,
    expected: Sequence[Point] = (),
) -> dict[str, Outcome]:
    """The outcome of each point, by run id; a diverged one is done.

    more: makes further points, from the number of free workers and the outcomes so far. It is
    called at the start, and when a worker has ended. expected: points like those that it will make,
    for the display.

    Processes are short-lived, forked from a server that has imported everything once. A point whose
    process was killed or stalled is started again, from its checkpoint, as often as requeue.py
    allows; one that fails with an exception is not. KeyboardInterrupt is raised once the
    runs have saved and ended.
    """
    n_threads = max(1, environment.usable_cores() // n_workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
    shorten_sockets()
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["experiments.execute"])
    planned = [*points, *expected]
    display = SweepProgress(
        name,
        len(planned),
        sum(p.own_flops for p in planned),
        planned[0].config.trainer.log_every_seconds,
    )
    # trunks, which others wait for, then long runs: no long tail
    queue = sorted(points, key=lambda p: (not p.is_trunk, -p.own_flops))
    running: list[_Worker] = []
    outcomes: dict[str, Outcome] = {}
    due = more is not None
    try:
        while queue or running or due:
            free = set(range(n_workers)) - {w.device for w in running}
            if more is not None and due and len(queue) < len(free):
                queue += more(len(free) - len(queue), outcomes)
            due = False
            ours = {p.run_id for p in queue} | {w.point.run_id for w in running}
            ready = (p for p in [*queue] if not _waits(p, ours))
            for device, point in zip(free, ready):
                queue.remove(point)
                process = context.Process(
                    target=_work, args=(dict(point.raw), n_threads, device), name=point.run_id
                )
                process.start()
                interruption.note_begun()
                running.append(_Worker(point=point, process=process, device=device))
            for worker in [w for w in running if w.process.exitcode is not None]:
                running.remove(worker)
                outcome = _outcome(worker)
                if outcome.fate == "killed" and _may_try_again(worker.point, outcome.why):
                    display.say(f"{worker.point.describe()}: {outcome.why}; tried again")
                    queue.insert(0, worker.point)
                    continue
                outcomes[worker.point.run_id] = outcome
                due = more is not None
                display.finished(worker.point, outcome.record, outcome.why)
            display.update([w.point for w in running])
            time.sleep(_POLL)
    finally:
        for worker in running:
            worker.process.terminate()
        display.close()
        _wait_for([w.process for w in running])
    return outcomes


def _waits(point: Point, ours: Collection[str]) -> bool:
    """Whether a branch's trunk has yet to get to its start, and one of our processes, or another's,
    is about to take it there. If none is, the branch's own process says what is wrong.
    """
    if point.branch is None or not waits(point):
        return False
    return point.branch.trunk_id in ours or is_claimed(point.branch.folder)


def _wait_for(processes: Sequence[BaseProcess]) -> None:
    """Until they have saved and ended; a further signal doesn't change that."""
    while True:
        try:
            for process in processes:
                process.join()
            return
        except KeyboardInterrupt:
            n = sum(process.exitcode is None for process in processes)
            print(f"waiting for {n} runs to save and end", file=sys.stderr, flush=True)


def _may_try_again(point: Point, why: str) -> bool:
    try:
        return try_again(point.run_dir, point.config.trainer.max_retries, "tried again", why)
    except (OSError, RuntimeError) as error:  # a full disk: the journal can't be written
        print(f"{point.run_dir}: {error}", file=sys.stderr)
        return False


def _outcome(worker: _Worker) -> Outcome:
    run_dir, code = worker.point.run_dir, worker.process.exitcode
    if code == ELSEWHERE:
        return Outcome(fate="elsewhere", why="left: another process has it")
    if code == INTERRUPTED:
        return Outcome(
            fate="interrupted", why="interrupted; the same command goes on from its checkpoint"
        )
    if code == NO_TRUNK:
        why = read_events(run_dir)[-1].get("why", "not run: its trunk has not come so far")
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
        record = read_record(run_dir / RECORD_NAME)
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


def _work(raw: Raw, n_threads: int, device: int) -> None:
    """A worker's whole life: one point, its output in log.txt."""
    interruption.listen()
    point = make_point(raw)
    terminal = os.dup(sys.stderr.fileno())
    try:
        redirect_output(point.run_dir / LOG_NAME)
        code = _work_in_log(point, n_threads, device)
    except RuntimeError as error:  # with a disk that takes no log, the terminal has to say it
        for descriptor in (sys.stderr.fileno(), terminal):
            with suppress(OSError):
                os.write(descriptor, f"error: {error}\n".encode())
        code = LOST if isinstance(error, RunLostError) else 1
    interruption.ending()
    raise SystemExit(code)


def _work_in_log(point: Point, n_threads: int, device: int) -> int:
    """The exit code of a worker."""
    from experiments.execute import execute  # the server has it; the controller has no use for it

    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    try:
        record = execute(point, Heartbeat(point.run_dir, point.plan.n_steps), n_threads)
    except KeyboardInterrupt as error:
        interruption.ending()
        print(f"interrupted: {error}", file=sys.stderr)
        return INTERRUPTED if interruption.received() else NO_TRUNK
    except RunningElsewhereError as error:
        print(error, file=sys.stderr)
        return ELSEWHERE
    if record.error:
        print(record.error, file=sys.stderr)
    return int(record.status == "failed")


def redirect_output(path: Path) -> None:
    """All output of this process to a file from now on, which its owner alone can read."""
    with explained(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        refuse_links(path.parent)
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
