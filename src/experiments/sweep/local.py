"""Points of a sweep on this machine: planned all, then each run in a process of its own."""

import multiprocessing as mp
import os
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch

from experiments import distributed, environment, interruption
from experiments.claims import RunningElsewhereError, is_claimed
from experiments.disk import explained
from experiments.evaluation import results_table
from experiments.execute import execute
from experiments.point import Point, make_point
from experiments.records import RECORD_NAME, RunRecord, is_finished, read_record
from experiments.requeue import is_first_rank, near_time_limit, requeue
from experiments.sweep import manifest, slurm
from experiments.sweep.control import controlling
from experiments.sweep.plan_table import plan_table
from experiments.sweep.planning import (
    Raw,
    Todo,
    assumed_rate,
    check_fits,
    choose,
    plan_points,
    prepare_all,
    set_aside_diverged,
)
from experiments.sweep.progress import Heartbeat, SweepProgress
from experiments.sweep.snapshot import run_from, take_snapshot
from experiments.sweep.states import LOG_NAME

INTERRUPTED, ELSEWHERE = 130, 3  # a worker's exit codes, beside 0 done and 1 failed
_POLL = 0.1  # seconds


def run_one(raw: Raw) -> None:
    """One point in this process. Exits with 1 if it fails."""
    interruption.listen()
    (point,) = plan_points([raw])
    if point.config.dry_run:
        print(plan_table([point], assumed_rate(point)))
        return
    distributed.check_started(point.config)
    if distributed.is_other_rank(point.config):
        execute(point)
        return
    todo = choose([point])
    if not todo.run:
        _say_why_not(point, todo)
        return
    check_fits([point], 1)
    prepare_all([point])
    set_aside_diverged([point])
    manifest.add(point.run_dir.parent, [manifest.entry_of(point, None)])
    display = SweepProgress(
        point.config.sweep, 1, point.plan.planned_flops, point.config.trainer.log_every_seconds
    )
    heartbeat = Heartbeat(point.run_dir, point.plan.n_steps)

    def progress(row: dict[str, float]) -> None:
        heartbeat(row)
        display.update([point])

    try:
        record = execute(point, progress)
    except KeyboardInterrupt:
        display.close()
        if is_first_rank() and near_time_limit():  # sbatch/run.sh
            requeue()
        raise
    display.finished(point, record)
    display.close()
    if record.evaluations:
        print(results_table(record.evaluations))
    print(f"record: {point.run_dir / RECORD_NAME}")
    if record.status == "failed":
        print(record.error, file=sys.stderr)
        raise SystemExit(1)


def _say_why_not(point: Point, todo: Todo) -> None:
    """Why the one point is not run."""
    path = point.run_dir / RECORD_NAME
    if todo.elsewhere or not path.exists():
        print(f"{point.describe()}: {todo.describe()}, in {point.run_dir}")
        return
    record = read_record(path)
    print(f"{point.describe()}: {record.status} before, in {point.run_dir}")
    _name_missing_sets(point, record)


def _name_missing_sets(point: Point, record: RunRecord) -> None:
    """Says how to score a finished run on sets that it was not scored on."""
    scored = {label.partition("@")[0].partition("/")[0] for label in record.evaluations}
    missing = [name for name in point.config.eval if name not in scored]
    if missing and record.status == "done":
        sets = ",".join(missing)
        print(f"not scored on {sets}: python -m experiments.evaluate {point.run_dir} eval=[{sets}]")


def run_sweep(raws: Sequence[Raw], n_workers: int | None) -> None:
    """All points, n_workers at a time: what is finished is skipped, what is half-done goes on.

    Raises ValueError before anything is written if any point is bad or two are the same run.
    Exits with 1, after a table of failures, if any point failed.
    """
    points = plan_points(raws)
    first = points[0].config
    if first.dry_run:
        print(plan_table(points, assumed_rate(points[0])))
        return
    if first.trainer.devices * first.trainer.num_nodes > 1:
        raise ValueError(
            f"trainer.devices={first.trainer.devices} and trainer.num_nodes="
            f"{first.trainer.num_nodes} with hydra/launcher=local, which gives each point one "
            "process; use hydra/launcher=slurm, or start single runs with torchrun"
        )
    sweep_dir = points[0].run_dir.parent
    name = f"sweep {first.sweep}"
    todo = choose(points)
    accelerator = environment.resolve_accelerator(first.trainer.accelerator)
    n_workers = _worker_count(n_workers, len(todo.run), accelerator)
    check_fits(todo.run, n_workers)
    prepare_all(todo.run)
    with manifest.submitting(sweep_dir):  # and choose again: another may have submitted meanwhile
        todo = choose(points, list(slurm.queue(sweep_dir)))
        if todo.describe():
            print(f"{name}: {todo.describe()}")
        manifest.adopt(sweep_dir, todo.finished)
        if todo.run:
            set_aside_diverged(todo.run)
            code = take_snapshot(sweep_dir)
            manifest.add(sweep_dir, [manifest.entry_of(p, code.name) for p in todo.run])
    if todo.run:
        interruption.listen()  # `cancel` sends TERM
        print(f"{name}: {len(todo.run)} runs, {n_workers} at a time", flush=True)
        run_from(code)
        with controlling(sweep_dir):
            _run_all(todo.run, n_workers, name)
    _report(points)


def _report(points: Sequence[Point]) -> None:
    """A table of what did not succeed, and exit code 1, if there is any."""
    failed = [p for p in points if not is_finished(p.run_dir) and not is_claimed(p.run_dir)]
    if failed:
        print(f"\n{len(failed)} of {len(points)} runs failed:", file=sys.stderr)
        for point in failed:
            print(f"  {point.describe()}: {point.run_dir / LOG_NAME}", file=sys.stderr)
        raise SystemExit(1)


def _worker_count(wanted: int | None, n_points: int, accelerator: str) -> int:
    if wanted is not None and wanted < 1:
        raise ValueError(f"hydra.launcher.n_workers={wanted} must be at least 1")
    devices = torch.cuda.device_count() if accelerator == "cuda" else environment.usable_cores()
    return max(1, min(wanted or devices, n_points))


@dataclass(frozen=True, kw_only=True)
class _Worker:
    point: Point
    process: BaseProcess
    device: int


def _run_all(points: Sequence[Point], n_workers: int, name: str) -> None:
    """A pool of short-lived processes, forked from a server that has imported everything once."""
    n_threads = max(1, environment.usable_cores() // n_workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["experiments.execute", "wandb"])
    display = SweepProgress(
        name,
        len(points),
        sum(p.plan.planned_flops for p in points),
        points[0].config.trainer.log_every_seconds,
    )
    queue = sorted(points, key=lambda p: -p.plan.planned_flops)  # long runs first: no long tail
    running: list[_Worker] = []
    try:
        while queue or running:
            free = set(range(n_workers)) - {w.device for w in running}
            while queue and free:
                point, device = queue.pop(0), free.pop()
                process = context.Process(
                    target=_work, args=(dict(point.raw), n_threads, device), name=point.run_id
                )
                process.start()
                interruption.note_begun()
                running.append(_Worker(point=point, process=process, device=device))
            for worker in [w for w in running if w.process.exitcode is not None]:
                running.remove(worker)
                display.finished(worker.point, *_outcome(worker))
            display.update([w.point for w in running])
            time.sleep(_POLL)
    finally:
        for worker in running:
            worker.process.terminate()
        display.close()


def _outcome(worker: _Worker) -> tuple[RunRecord | None, str]:
    path = worker.point.run_dir / RECORD_NAME
    code = worker.process.exitcode
    if code == ELSEWHERE:
        return None, "another process has it"
    if code == INTERRUPTED:
        return None, "interrupted; the same command goes on from its checkpoint"
    if code not in (0, 1) or not path.exists():
        return None, f"the process ended with {code}; see {worker.point.run_dir / LOG_NAME}"
    return read_record(path), ""


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
        code = 1
    raise SystemExit(code)


def _work_in_log(point: Point, n_threads: int, device: int) -> int:
    """The exit code of a worker."""
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    try:
        record = execute(point, Heartbeat(point.run_dir, point.plan.n_steps), n_threads)
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}", file=sys.stderr)
        return INTERRUPTED
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
        log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
