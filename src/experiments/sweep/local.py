"""Points of a sweep on this machine: planned all, then each run in a process of its own."""

import multiprocessing as mp
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from experiments import environment
from experiments.data.prepare import is_prepared, prepare_data, prepare_sets
from experiments.evaluation import results_table
from experiments.execute import execute
from experiments.plan import check_memory
from experiments.point import Point, make_point
from experiments.records import RECORD_NAME, RunRecord, is_finished, read_record
from experiments.sweep.plan_table import ACHIEVED_SHARE, plan_table
from experiments.sweep.progress import Heartbeat, SweepProgress

LOG_NAME = "log.txt"
_POLL = 0.1  # seconds
Raw = Mapping[str, Any]


def run_one(raw: Raw) -> None:
    """One point in this process. Exits with 1 if it fails."""
    point = make_point(raw)
    if point.config.dry_run:
        print(plan_table([point], _rate(point)))
        return
    if is_finished(point.run_dir):
        record = read_record(point.run_dir / RECORD_NAME)
        print(f"{point.describe()}: {record.status} before, in {point.run_dir}")
        _name_missing_sets(point, record)
        return
    _check_memory([point], 1)
    _prepare_data([point])
    display = SweepProgress(
        point.config.sweep, 1, point.plan.planned_flops, point.config.trainer.log_every_seconds
    )
    heartbeat = Heartbeat(point.run_dir, point.plan.n_steps)

    def progress(row: dict[str, float]) -> None:
        heartbeat(row)
        display.update([point])

    record = execute(point, progress)
    display.finished(point, record)
    display.close()
    if record.evaluations:
        print(results_table(record.evaluations))
    print(f"record: {point.run_dir / RECORD_NAME}")
    if record.status == "failed":
        print(record.error, file=sys.stderr)
        raise SystemExit(1)


def _name_missing_sets(point: Point, record: RunRecord) -> None:
    """Says how to score a finished run on sets that it was not scored on."""
    scored = {label.partition("@")[0].partition("/")[0] for label in record.evaluations}
    missing = [name for name in point.config.eval if name not in scored]
    if missing and record.status == "done":
        sets = ",".join(missing)
        print(f"not scored on {sets}: python -m experiments.evaluate {point.run_dir} eval=[{sets}]")


def run_sweep(raws: Sequence[Raw], n_workers: int | None) -> None:
    """All points, n_workers at a time; finished ones are skipped, failed ones tried again.

    Raises ValueError before anything is written if any point is bad or two are the same run.
    Exits with 1, after a table of failures, if any point failed.
    """
    points = [make_point(raw) for raw in raws]
    _check_distinct(points)
    first = points[0].config
    accelerator = environment.resolve_accelerator(first.trainer.accelerator)
    if first.dry_run:
        print(plan_table(points, _rate(points[0])))
        return
    todo = [p for p in points if not is_finished(p.run_dir)]
    n_workers = _worker_count(n_workers, len(todo), accelerator)
    _check_memory(todo, n_workers)
    name = f"sweep {first.sweep}"
    if len(todo) < len(points):
        print(f"{name}: {len(points) - len(todo)} of {len(points)} runs are done already")
    if todo:
        _prepare_data(todo)
        print(f"{name}: {len(todo)} runs, {n_workers} at a time", flush=True)
        _run_all(todo, n_workers, name)
    failed = [p for p in points if not is_finished(p.run_dir)]
    if failed:
        print(f"\n{len(failed)} of {len(points)} runs failed:", file=sys.stderr)
        for point in failed:
            print(f"  {point.describe()}: {point.run_dir / LOG_NAME}", file=sys.stderr)
        raise SystemExit(1)


def _check_distinct(points: Sequence[Point]) -> None:
    seen: dict[str, Point] = {}
    for point in points:
        if point.run_id in seen:
            raise ValueError(
                f"two points of the sweep are one run, {point.run_id} ({point.describe()}): "
                "an argument they differ in has no effect; sweep each model with its own arguments"
            )
        seen[point.run_id] = point


def _check_memory(points: Sequence[Point], n_workers: int) -> None:
    """Raises ValueError if the largest point, or n_workers of it at once, can't fit."""
    for point in sorted(points, key=lambda p: -p.plan.memory_bytes)[:1]:
        accelerator = environment.resolve_accelerator(point.config.trainer.accelerator)
        available = environment.total_memory(accelerator)
        check_memory(point.plan.memory_bytes, available, point.describe())
        if accelerator == "cpu":
            what = f"hydra.launcher.n_workers={n_workers} times {point.describe()}"
            check_memory(n_workers * point.plan.memory_bytes, available, what)


def _worker_count(wanted: int | None, n_points: int, accelerator: str) -> int:
    if wanted is not None and wanted < 1:
        raise ValueError(f"hydra.launcher.n_workers={wanted} must be at least 1")
    devices = torch.cuda.device_count() if accelerator == "cuda" else environment.usable_cores()
    return max(1, min(wanted or devices, n_points))


def _rate(point: Point) -> float:
    """FLOP/s that estimates assume: as configured, else a share of a measured matrix product."""
    trainer = point.config.trainer
    if trainer.flops_per_second is not None:
        return trainer.flops_per_second
    accelerator = environment.resolve_accelerator(trainer.accelerator)
    precision = environment.resolve_precision(trainer.precision, accelerator)
    return ACHIEVED_SHARE * environment.measured_peak_flops(accelerator, precision)


def _prepare_data(points: Sequence[Point]) -> None:
    """Downloads and tokenizes once, before any worker starts."""
    for point in points:
        data = point.config.data
        if not is_prepared(data, point.cache):
            size = data.tokenizer.n_entries()
            print(
                f"preparing {type(data.corpus).__name__}: text, vocabulary of {size}, tokens",
                flush=True,
            )
        prepared = prepare_data(data, point.cache)
        prepare_sets(data, point.config.eval, prepared.vocabulary, point.cache)


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
    if code not in (0, 1) or not path.exists():
        return None, f"the process ended with {code}; see {worker.point.run_dir / LOG_NAME}"
    return read_record(path), ""


def _work(raw: Raw, n_threads: int, device: int) -> None:
    """A worker's whole life: one point, its output in log.txt."""
    point = make_point(raw)
    point.run_dir.mkdir(parents=True, exist_ok=True)
    _redirect_output(point.run_dir / LOG_NAME)
    if torch.cuda.is_available():
        torch.cuda.set_device(device)
    record = execute(point, Heartbeat(point.run_dir, point.plan.n_steps), n_threads)
    if record.error:
        print(record.error, file=sys.stderr)
    raise SystemExit(record.status == "failed")


def _redirect_output(path: Path) -> None:
    log = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(log, stream.fileno())
    os.close(log)
