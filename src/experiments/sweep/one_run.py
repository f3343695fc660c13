"""One run in this process: `python -m experiments.run` without -m, and each rank of a run."""

import sys

from experiments.records.app_record import Record
from experiments.records.files import RECORD_NAME, read_any_record
from experiments.sweep import manifest
from experiments.sweep.app import FIRST, Raw, app_of, note_app
from experiments.sweep.objective import objective_value
from experiments.sweep.planning import (
    ELSEWHERE,
    Todo,
    choose,
    plan_points,
    prepare_all,
    repair_histories,
    set_aside_diverged,
)
from experiments.sweep.point import Point
from experiments.sweep.progress import Heartbeat, SweepProgress
from experiments.sweep.queue import own_job, read_tasks, requeue_point
from experiments.system import interruption
from experiments.system.claims import RunningElsewhereError


def run_one(raw: Raw, *, stored: bool = False, place: str = FIRST) -> float | None:
    """One point in this process, and before a branch its trunk, if nothing is there to start from.
    stored: as of App.plan; place: the app's.

    Returns its held-out loss in nats per token, infinite if it diverged; None of a dry run, of a
    trunk and of other ranks. Exits with 1 if it fails, 3 if another process or a queue has it.
    """
    interruption.listen()
    (point,) = plan_points([raw], stored=stored, place=place)
    app = app_of([point])
    if point.handling.dry_run:
        print(app.plan_text([point]))
        return None
    trunks = [other for other in choose([point]).run if other.run_id != point.run_id]
    is_first = app.begin(point, trunks)
    for trunk in trunks:
        app.enter([point])
        run_one(trunk.raw, stored=True, place=place)
    if not is_first:
        app.execute(point)
        return None
    todo = choose([point], read_tasks(point.sweep_dir))
    if point not in todo.run:
        return objective_value(_found(point, todo))
    app.check_fits([point], 1)
    prepare_all([point])
    set_aside_diverged([point])
    app.enter([point])
    note_app(point.sweep_dir, place)
    manifest.add(point.sweep_dir, [manifest.make_entry(point, None)])
    display = SweepProgress([point], app.seconds([point]))
    heartbeat = Heartbeat(point)

    def progress(row: dict[str, float]) -> None:
        heartbeat(row)
        display.update([point])

    def tell(error: KeyboardInterrupt) -> None:
        job = own_job()
        if job is not None and job.at_time_limit(interruption.received()):  # sbatch/run.sh
            why = f"time limit: {error}"
            requeue_point(job, point.run_dir, point.handling.max_retries, why)

    try:
        with interruption.told(tell):
            record = app.execute(point, progress)
    except KeyboardInterrupt:
        display.close()
        raise
    except RunningElsewhereError as error:
        display.close()
        print(error, file=sys.stderr)
        raise SystemExit(ELSEWHERE) from None
    display.finished(point, record)
    display.close()
    for line in app.ended_lines(point, record, before=False):
        print(line)
    print(f"record: {point.run_dir / RECORD_NAME}")
    if record.status == "failed":
        print(record.error, file=sys.stderr)
        raise SystemExit(1)
    return objective_value(record)


def _found(point: Point, todo: Todo) -> Record:
    """Record of the one point that is not run, and says why. Exits with 3, or 1 if it failed
    before, if it is not done.
    """
    if point not in todo.finished:
        print(f"{point.describe()}: {todo.describe()}, in {point.run_dir}")
        raise SystemExit(1 if todo.failed else ELSEWHERE)
    record = read_any_record(point.run_dir / RECORD_NAME)
    repair_histories([point])
    print(f"{point.describe()}: {record.status} before, in {point.run_dir}")
    for line in app_of([point]).ended_lines(point, record, before=True):
        print(line)
    return record
