"""A search by a queue: what has a record is told, and as many trials begun as there is room for,
each time that a run may have ended. Several commands may do so at once (search.py).
"""

import sys
from collections.abc import Mapping

from experiments.sweep import manifest
from experiments.sweep.again import sweep_command
from experiments.sweep.app import app_of
from experiments.sweep.control import controlling
from experiments.sweep.entering import enter
from experiments.sweep.page.keeping import kept_page
from experiments.sweep.planning import (
    ELSEWHERE,
    INTERRUPTED,
    choose,
    prepare_all,
)
from experiments.sweep.queue import Outcome, Queue, Session, launchers, read_tasks
from experiments.sweep.search import Search
from experiments.sweep.search_table import read_cells, search_lines
from experiments.sweep.states import LOG_NAME
from experiments.system import interruption


def run_search(search: Search, queue: Queue) -> None:
    """All trials of all cells, if the queue stays; else those that can run now, unless it watches.

    Raises ValueError before anything is written for a point at an end of the ranges that can't be
    run, for a cell that was searched by other rules, and for a queue that takes no searches. Exits
    as _report.
    """
    if not queue.searches:
        raise ValueError(
            f"hydra.sweeper.search with hydra/launcher={queue.name()}, which runs points that are "
            "there, and draws no trials; use hydra/launcher=" + launchers(of_searches=True)
        )
    lowest = search.check()
    first = lowest[0]
    handling = first.handling
    if handling.dry_run:
        lines = queue.plan(search.ends)  # first: it may refuse them
        print("\n".join([search.plan_text(), *lines]))
        return
    app_of(lowest).check_planned(search.ends)
    queue.check(search.ends, search.rules.n_trials * len(lowest))
    prepare_all(lowest)
    interruption.listen()  # `cancel` sends TERM
    outcomes: Mapping[str, Outcome] = {}
    with controlling(search.sweep_dir):
        with manifest.submitting(search.sweep_dir):
            search.begin()
            search.tell(read_tasks(search.sweep_dir), {})
            search.try_again()
            n_open = search.n_open()
        if n_open:
            what = f"sweep {handling.sweep}: {n_open} of {search.describe()}"
            n_points = n_open if queue.stays else 0
            with (
                kept_page(search.sweep_dir, handling.sweep, n_points),
                queue.session(what, search.expected()) as session,
            ):
                steps = Steps(search, session)
                while (n_open := steps.take()) and session.wait():
                    pass
            outcomes = steps.outcomes
    if not queue.stays:
        print(f"status: {sweep_command('status', handling.sweep, handling.results)}")
        if n_open:
            print(f"{n_open} of {search.describe()} are not done; the same command goes on")
            return
    _report(search, outcomes)


class Steps:
    """This command's share of a search: which runs it has taken, and what became of them."""

    def __init__(self, search: Search, session: Session) -> None:
        self.search, self.session = search, session
        self.taken: set[str] = set()
        self.outcomes: Mapping[str, Outcome] = {}

    def take(self) -> int:
        """Tells, asks and submits once; how many trials are open then."""
        search, sweep_dir = self.search, self.search.sweep_dir
        with manifest.submitting(sweep_dir) as claim:
            tasks = read_tasks(sweep_dir)
            self.outcomes = self.session.outcomes(tasks)
            search.tell(tasks, self._given_up())
            found = search.to_start(self.taken)
            n_others = len({p.run_id for p in search.running()} - {p.run_id for p in found})
            room = self.session.room(n_others)
            search.ask(None if room is None else room - len(found))
            todo = choose(search.to_start(self.taken), tasks).run
            prepare_all(todo)
            code = enter(todo)
            if code is not None:
                claim.check()
                self.session.submit(todo, code, tasks)
            self.taken |= {point.run_id for point in todo}
            return search.n_open()

    def _given_up(self) -> dict[str, str]:
        """Runs that won't be tried again by this command, and why."""
        ended = self.outcomes.items()
        return {id: o.why or "failed" for id, o in ended if o.fate in ("failed", "killed")}


def _report(search: Search, outcomes: Mapping[str, Outcome]) -> None:
    """Cells, what is not done, and why. Exits then: with 1 if a trial failed, else 130 if any
    was interrupted, else 3 if another command has any.
    """
    sweep_dir = search.sweep_dir
    mine = [cell for cell in read_cells(sweep_dir) if cell.name in search.cells]
    print("\n".join(search_lines(mine)))
    for run_id, outcome in outcomes.items():
        if outcome.fate in ("failed", "killed"):
            print(f"failed: {sweep_dir / run_id / LOG_NAME}", file=sys.stderr)
    counts = [cell.counts() for cell in mine]
    n_failed = sum(c["failed"] for c in counts)
    n_left = sum(c["running"] + c["left"] for c in counts)
    n_interrupted = sum(o.fate == "interrupted" for o in outcomes.values())
    if n_left:
        print(f"{n_left} trials are not done; the same command goes on", file=sys.stderr)
    if n_failed or n_left:
        raise SystemExit(1 if n_failed else INTERRUPTED if n_interrupted else ELSEWHERE)
