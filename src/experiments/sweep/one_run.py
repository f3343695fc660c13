"""One run in this process: `python -m experiments.run` without -m, and each rank of a run."""

import sys

from experiments.points.emulated import emulation_lines
from experiments.points.point import Point
from experiments.records.files import RECORD_NAME, read_record
from experiments.records.record import RunRecord
from experiments.sweep import manifest
from experiments.sweep.entering import enter_branches
from experiments.sweep.estimate import assumed_rate, seconds_of_all
from experiments.sweep.objective import objective_value
from experiments.sweep.plan_table import plan_table
from experiments.sweep.planning import (
    ELSEWHERE,
    Raw,
    Todo,
    check_fits,
    choose,
    plan_points,
    prepare_all,
    repair_histories,
    set_aside_diverged,
)
from experiments.sweep.progress import Heartbeat, SweepProgress
from experiments.sweep.queue import launchers, own_job, read_tasks, requeue_point
from experiments.system import distributed, interruption
from experiments.system.claims import RunningElsewhereError


def run_one(raw: Raw, *, stored: bool = False) -> float | None:
    """One point in this process, and before a branch its trunk, if nothing is there to start from.
    stored: as of plan_points.

    Returns its held-out loss in nats per token, infinite if it diverged; None of a dry run, of a
    trunk and of other ranks. Exits with 1 if it fails, 3 if another process or a queue has it.
    """
    interruption.listen()
    (point,) = plan_points([raw], stored=stored)
    if point.config.dry_run:
        print("\n".join([plan_table([point], assumed_rate(point)), *emulation_lines([point])]))
        return None
    from experiments.training.evaluation import results_table
    from experiments.training.execute import (
        execute,  # seconds of imports that a plan has no use for
    )

    distributed.check_started(point.ranks)
    trunks = [other for other in choose([point]).run if other.run_id != point.run_id]
    if trunks and point.ranks.world_size > 1:
        raise ValueError(
            f"optim.branch_from={point.config.optim.branch_from} with {point.ranks.world_size} "
            "ranks trains one run a command: train the trunk first, with optim.schedule=trunk and "
            f"optim.branch_from=null, or use hydra/launcher={launchers(of_ranks=True)} with -m"
        )
    for trunk in trunks:
        enter_branches([point])
        run_one(trunk.raw, stored=True)
    if distributed.is_other_rank(point.ranks):
        execute(point)
        return None
    todo = choose([point], read_tasks(point.run_dir.parent))
    if point not in todo.run:
        return objective_value(_found(point, todo))
    check_fits([point], 1)
    prepare_all([point])
    set_aside_diverged([point])
    enter_branches([point])
    manifest.add(point.run_dir.parent, [manifest.make_entry(point, None)])
    display = SweepProgress([point], seconds_of_all([point]))
    heartbeat = Heartbeat(point)

    def progress(row: dict[str, float]) -> None:
        heartbeat(row)
        display.update([point])

    def tell(error: KeyboardInterrupt) -> None:
        job = own_job()
        if job is not None and job.at_time_limit(interruption.received()):  # sbatch/run.sh
            why = f"time limit: {error}"
            requeue_point(job, point.run_dir, point.config.trainer.max_retries, why)

    try:
        with interruption.told(tell):
            record = execute(point, progress)
    except KeyboardInterrupt:
        display.close()
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
    return objective_value(record)


def _found(point: Point, todo: Todo) -> RunRecord:
    """Record of the one point that is not run, and says why. Exits with 3, or 1 if it failed
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
