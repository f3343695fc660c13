"""A search on this machine: each worker that is free gets the next trial."""

import sys
from collections.abc import Mapping

from experiments.point import Point
from experiments.sweep import manifest, slurm
from experiments.sweep.control import controlling
from experiments.sweep.local import check_one_process, worker_count
from experiments.sweep.planning import ELSEWHERE, INTERRUPTED, check_fits, choose, prepare_all
from experiments.sweep.search import Search
from experiments.sweep.search_table import read_cells, search_lines
from experiments.sweep.snapshot import run_from
from experiments.sweep.states import LOG_NAME
from experiments.sweep.submission import enter
from experiments.sweep.workers import Outcome, run_all
from experiments.system import interruption


def run_search(search: Search, n_workers: int | None) -> None:
    """All trials of all cells, n_workers at a time.

    Raises ValueError before anything is written for a point at an end of the ranges that can't be
    run, and for a cell that was searched by other rules. Exits as local.run_sweep.
    """
    lowest = search.check()
    first = lowest[0]
    if first.config.dry_run:
        print(search.plan_text())
        return
    check_one_process(first)
    n_workers = worker_count(n_workers, search.rules.n_trials * len(lowest), first.device)
    check_fits(search.ends, n_workers)
    prepare_all(lowest)
    sweep_dir, name = first.run_dir.parent, f"sweep {first.config.sweep}"
    interruption.listen()  # `cancel` sends TERM
    with controlling(sweep_dir):
        with manifest.submitting(sweep_dir):
            search.begin()
            search.tell(slurm.queue(sweep_dir), {})
            search.try_again()
            n_open = search.n_open()
        outcomes: dict[str, Outcome] = {}
        if n_open:
            print(f"{name}: {n_open} of {search.describe()}, {n_workers} at a time", flush=True)
            outcomes = run_all([], n_workers, name, _Controller(search).more, search.expected())
    _report(search, outcomes)


class _Controller:
    """This process's share of a search: which runs it has taken, and by which code."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self.taken: set[str] = set()

    def more(self, n: int, outcomes: Mapping[str, Outcome]) -> list[Point]:
        """Tells what is known, and returns the points of about n new trials, by now in the
        manifest.
        """
        search, sweep_dir = self.search, self.search.sweep_dir
        given_up = {
            run_id: outcome.why or "failed"
            for run_id, outcome in outcomes.items()
            if outcome.fate in ("failed", "killed")
        }
        with manifest.submitting(sweep_dir):
            queue = slurm.queue(sweep_dir)
            search.tell(queue, given_up)
            found = search.to_start(self.taken)
            if len(found) < n:
                search.ask(n - len(found))
                found = search.to_start(self.taken)
            todo = choose(found, queue).run
            code = enter(todo)
        if code is not None and not self.taken:
            run_from(code)
        self.taken |= {point.run_id for point in todo}
        prepare_all(todo)
        return list(todo)


def _report(search: Search, outcomes: Mapping[str, Outcome]) -> None:
    """The cells, what is not done, and why; and the exit code, if there is any."""
    sweep_dir = search.sweep_dir
    cells = read_cells(sweep_dir)
    mine = [cell for cell in cells if cell.name in search.cells]
    print("\n".join(search_lines(mine)))
    failed = [run_id for run_id, o in outcomes.items() if o.fate in ("failed", "killed")]
    for run_id in failed:
        print(f"failed: {sweep_dir / run_id / LOG_NAME}", file=sys.stderr)
    counts = [cell.counts() for cell in mine]
    n_failed = sum(c["failed"] for c in counts)
    n_left = sum(c["running"] + c["left"] for c in counts)
    n_interrupted = sum(o.fate == "interrupted" for o in outcomes.values())
    if n_left:
        print(f"{n_left} trials are not done; the same command goes on", file=sys.stderr)
    if n_failed or n_left:
        raise SystemExit(1 if n_failed else INTERRUPTED if n_interrupted else ELSEWHERE)
