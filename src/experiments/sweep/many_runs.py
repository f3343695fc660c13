"""A sweep by a queue: planned all, what is left to do handed over, and, of a queue that stays,
waited for.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from experiments.records.files import RECORD_NAME, read_any_record
from experiments.records.record import ENDED
from experiments.sweep.again import sweep_command
from experiments.sweep.app import FIRST, Raw, app_of
from experiments.sweep.control import controlling
from experiments.sweep.entering import entered
from experiments.sweep.objective import objective_value
from experiments.sweep.page.keeping import kept_page
from experiments.sweep.planning import (
    ELSEWHERE,
    INTERRUPTED,
    Todo,
    choose,
    plan_points,
    prepare_all,
    read_status,
)
from experiments.sweep.point import Point
from experiments.sweep.queue import Fate, Outcome, Queue
from experiments.sweep.states import LOG_NAME
from experiments.system import interruption


def run_sweep(
    raws: Sequence[Raw], queue: Queue, *, stored: bool = False, place: str = FIRST
) -> list[float | None]:
    """All points: what is finished is skipped, what is half-done goes on. Returns their held-out
    losses as run_one, if the queue stays; nothing of a dry run. stored: as of App.plan. place: that
    of the app.

    Text is fetched and tokenized here, on a machine that may have a network when nodes have none;
    a stream's vocabulary too. Raises ValueError before anything is written if any point is bad, two
    are the same run, or the queue can't run them; RuntimeError with the queue's words if it
    refuses. Exits as _report.
    """
    points = plan_points(raws, stored=stored, place=place)
    first = points[0]
    handling = first.handling
    if handling.dry_run:
        lines = queue.plan(points)  # first: it may refuse them
        print("\n".join([app_of(points).plan_text(points), *lines]))
        return []
    wanted = choose(points).run
    app_of(points).check_planned(wanted)
    queue.check(wanted, len(wanted))
    prepare_all(wanted)
    outcomes: Mapping[str, Outcome] = {}
    with ExitStack() as stack:
        with entered(points) as submission:
            todo = submission.todo
            if submission.code is not None:
                interruption.listen()  # `cancel` sends TERM
                stack.enter_context(controlling(first.sweep_dir))
                n_shown = len(points) if queue.stays else 0
                page = kept_page(first.sweep_dir, handling.sweep, n_shown)
                stack.enter_context(page)
                what = f"sweep {handling.sweep}: {len(todo.run)} runs"
                session = stack.enter_context(queue.session(what, todo.run))
                session.submit(todo.run, submission.code, todo.tasks)
        if submission.code is not None and queue.stays:
            while session.wait():
                pass
            outcomes = session.outcomes({})
    if not queue.stays:
        print(f"status: {sweep_command('status', handling.sweep, handling.results)}")
    _report(todo, {run_id: outcome.fate for run_id, outcome in outcomes.items()}, queue)
    if not queue.stays:
        return []
    return [objective_value(read_any_record(point.run_dir / RECORD_NAME)) for point in points]


def _report(todo: Todo, fates: Mapping[str, Fate], queue: Queue) -> None:
    """Prints what won't be done by itself, and why. Exits then: with 1 if any point failed,
    else 130 if any was interrupted, else 3 if another process or a queue has any.
    """

    def ended(*wanted: Fate) -> list[Point]:
        return [p for p in todo.run if fates.get(p.run_id) in wanted]

    queued = todo.queued if queue.stays else ()
    left = [*todo.running, *queued, *todo.held, *ended("elsewhere")]
    failed = [*ended("failed", "killed"), *todo.failed]
    interrupted = ended("interrupted")
    elsewhere = [p for p in left if read_status(p.run_dir) not in ENDED]
    total = len(todo.points)
    if failed:
        print(f"\n{len(failed)} of {total} runs failed:", file=sys.stderr)
        for point in failed:
            log = point.run_dir / LOG_NAME
            place = log if log.exists() else point.run_dir / RECORD_NAME
            print(f"  {point.describe()}: {place}", file=sys.stderr)
    if interrupted:
        what = "were interrupted; the same command goes on from their checkpoints"
        print(f"{len(interrupted)} of {total} runs {what}", file=sys.stderr)
    if elsewhere:
        what = (
            "are not done: another process or a queue has them; give the same command again later"
        )
        print(f"{len(elsewhere)} of {total} runs {what}", file=sys.stderr)
    if failed or interrupted or elsewhere:
        raise SystemExit(1 if failed else INTERRUPTED if interrupted else ELSEWHERE)
