"""Points of a sweep on this machine: planned all, then each run in a process of its own."""

import sys
from collections.abc import Mapping, Sequence

import torch

from experiments.point import Point
from experiments.records import RECORD_NAME, RunRecord, read_record
from experiments.sweep import manifest, slurm
from experiments.sweep.control import controlling
from experiments.sweep.objective import Objective
from experiments.sweep.plan_table import plan_table
from experiments.sweep.planning import (
    ELSEWHERE,
    INTERRUPTED,
    Raw,
    Todo,
    assumed_rate,
    check_fits,
    choose,
    plan_points,
    prepare_all,
    repair_histories,
    set_aside_diverged,
    status_of,
)
from experiments.sweep.progress import Heartbeat, SweepProgress
from experiments.sweep.snapshot import run_from
from experiments.sweep.states import LOG_NAME
from experiments.sweep.submission import enter_branches, entered
from experiments.sweep.workers import Fate, run_all
from experiments.system import distributed, interruption
from experiments.system.claims import RunningElsewhereError
from experiments.system.environment import Device, usable_cores
from experiments.system.requeue import at_time_limit, is_first_rank, requeue_point


def run_one(raw: Raw, *, stored: bool = False) -> float | None:
    """One point in this process, and before a branch its trunk, if nothing is there to start from.
    stored: as of plan_points.

    Returns its held-out loss in nats per token, infinite if it diverged; None of a dry run, of a
    trunk and of other ranks. Exits with 1 if it fails, 3 if another process or Slurm has it.
    """
    interruption.listen()
    (point,) = plan_points([raw], stored=stored)
    if point.config.dry_run:
        print(plan_table([point], assumed_rate(point)))
        return None
    from experiments.execute import execute  # seconds of imports that a plan has no use for
    from experiments.training.evaluation import results_table

    distributed.check_started(point.ranks)
    trunks = [other for other in choose([point]).run if other.run_id != point.run_id]
    if trunks and point.ranks.world_size > 1:
        raise ValueError(
            f"optim.branch_from={point.config.optim.branch_from} with {point.ranks.world_size} "
            "ranks trains one run a command: train the trunk first, with optim.schedule=trunk and "
            "optim.branch_from=null, or use hydra/launcher=slurm with -m"
        )
    for trunk in trunks:
        enter_branches([point])
        run_one(trunk.raw, stored=True)
    if distributed.is_other_rank(point.ranks):
        execute(point)
        return None
    todo = choose([point], slurm.queue(point.run_dir.parent))
    if point not in todo.run:
        return _objective(_found(point, todo))
    check_fits([point], 1)
    prepare_all([point])
    set_aside_diverged([point])
    enter_branches([point])
    manifest.add(point.run_dir.parent, [manifest.entry_of(point, None)])
    display = SweepProgress(
        point.config.sweep, 1, point.own_flops, point.config.trainer.log_every_seconds
    )
    heartbeat = Heartbeat(point.run_dir, point.plan.n_steps)

    def progress(row: dict[str, float]) -> None:
        heartbeat(row)
        display.update([point])

    try:
        record = execute(point, progress)
    except KeyboardInterrupt as error:
        display.close()
        if is_first_rank() and at_time_limit(interruption.received()):  # sbatch/run.sh
            requeue_point(point.run_dir, point.config.trainer.max_retries, f"time limit: {error}")
        raise
    except RunningElsewhereError as error:
        display.close()
        print(error, file=sys.stderr)
        raise SystemExit(ELSEWHERE) from None
    display.finished(point, record)
    display.close()
    if record.evaluations:
        print(results_table(record.evaluations))
    print(f"record: {point.run_dir / RECORD_NAME}")
    if record.status == "failed":
        print(record.error, file=sys.stderr)
        raise SystemExit(1)
    return _objective(record)


def _objective(record: RunRecord) -> float | None:
    """What Hydra's own sweepers are told."""
    return Objective(name="val_loss", direction="minimize").of(record)


def _found(point: Point, todo: Todo) -> RunRecord:
    """The record of the one point that is not run, and says why. Exits with 3, or 1 if it failed
    before, if it is not done.
    """
    if point not in todo.finished:
        print(f"{point.describe()}: {todo.describe()}, in {point.run_dir}")
        raise SystemExit(1 if todo.failed else ELSEWHERE)
    record = read_record(point.run_dir / RECORD_NAME)
    repair_histories([point])
    print(f"{point.describe()}: {record.status} before, in {point.run_dir}")
    _name_missing_sets(point, record)
    return record


def _name_missing_sets(point: Point, record: RunRecord) -> None:
    """Says how to score a finished run on sets that it was not scored on."""
    scored = {label.partition("@")[0].partition("/")[0] for label in record.evaluations}
    missing = [name for name in point.config.eval if name not in scored]
    if missing and record.status == "done" and not record.is_trunk:
        sets = ",".join(missing)
        print(f"not scored on {sets}: python -m experiments.evaluate {point.run_dir} eval=[{sets}]")


def run_sweep(
    raws: Sequence[Raw], n_workers: int | None, *, stored: bool = False
) -> list[float | None]:
    """All points, n_workers at a time: what is finished is skipped, what is half-done goes on.
    Returns their held-out losses as run_one; nothing of a dry run. stored: as of plan_points.

    Raises ValueError before anything is written if any point is bad or two are the same run.
    Exits, after saying which and why, with 1 if any point failed, else 130 if any was interrupted,
    else 3 if any is left to another process or to Slurm: 0 is for all done.
    """
    points = plan_points(raws, stored=stored)
    first = points[0].config
    if first.dry_run:
        print(plan_table(points, assumed_rate(points[0])))
        return []
    check_one_process(points[0])
    wanted = choose(points).run
    n_workers = worker_count(n_workers, len(wanted), points[0].device)
    check_fits(wanted, n_workers)
    prepare_all(wanted)
    with entered(points) as submission:
        todo = submission.todo
    fates: dict[str, Fate] = {}
    if submission.code is not None:
        name = f"sweep {first.sweep}"
        interruption.listen()  # `cancel` sends TERM
        print(f"{name}: {len(todo.run)} runs, {n_workers} at a time", flush=True)
        run_from(submission.code)
        with controlling(points[0].run_dir.parent):
            outcomes = run_all(todo.run, n_workers, name)
            fates = {run_id: outcome.fate for run_id, outcome in outcomes.items()}
    _report(todo, fates)
    return [_objective(read_record(point.run_dir / RECORD_NAME)) for point in points]


def _report(todo: Todo, fates: Mapping[str, Fate]) -> None:
    """What is not done, and why; and the exit code, if there is any."""

    def ended(*wanted: Fate) -> list[Point]:
        return [p for p in todo.run if fates.get(p.run_id) in wanted]

    left = [*todo.running, *todo.queued, *todo.held, *ended("elsewhere")]
    failed = [*ended("failed", "killed"), *todo.failed]
    interrupted = ended("interrupted")
    elsewhere = [p for p in left if status_of(p.run_dir) not in ("done", "diverged")]
    total = len(todo.points)
    if failed:
        print(f"\n{len(failed)} of {total} runs failed:", file=sys.stderr)
        for point in failed:
            print(f"  {point.describe()}: {point.run_dir / LOG_NAME}", file=sys.stderr)
    if interrupted:
        what = "were interrupted; the same command goes on from their checkpoints"
        print(f"{len(interrupted)} of {total} runs {what}", file=sys.stderr)
    if elsewhere:
        what = "are not done: another process or Slurm has them; give the same command again later"
        print(f"{len(elsewhere)} of {total} runs {what}", file=sys.stderr)
    if failed or interrupted or elsewhere:
        raise SystemExit(1 if failed else INTERRUPTED if interrupted else ELSEWHERE)


def check_one_process(point: Point) -> None:
    """Raises ValueError for a point of several ranks."""
    trainer = point.config.trainer
    if point.ranks.world_size > 1:
        raise ValueError(
            f"trainer.devices={trainer.devices} and trainer.num_nodes={trainer.num_nodes} with "
            "hydra/launcher=local, which gives each point one process; use hydra/launcher=slurm, "
            "or start single runs with torchrun"
        )


def worker_count(wanted: int | None, n_points: int, device: Device) -> int:
    """How many of n_points run at once; wanted: null for one a GPU, or one a core."""
    if wanted is not None and wanted < 1:
        raise ValueError(f"hydra.launcher.n_workers={wanted} must be at least 1")
    available = torch.cuda.device_count() if device.accelerator == "cuda" else usable_cores()
    return max(1, min(wanted or available, n_points))
