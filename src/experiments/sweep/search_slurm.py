"""A search on Slurm: what can run now is submitted; the same command, or this one if it watches,
goes on when runs have ended.
"""

import time
from collections.abc import Collection, Mapping

from experiments.point import Point
from experiments.sweep import manifest, slurm
from experiments.sweep.cluster import status_command, submit
from experiments.sweep.control import controlling
from experiments.sweep.planning import choose, prepare_all, status_of
from experiments.sweep.search import Search
from experiments.sweep.search_table import read_cells, search_lines
from experiments.sweep.submission import enter
from experiments.system import interruption


def submit_search(search: Search, resources: slurm.Resources, watch: float | None) -> None:
    """Tells what has a record, and submits trials until max_parallel points are in Slurm's hands;
    without max_parallel, until each cell has a trial that runs. Returns then; or, with watch, looks
    again every so many seconds until all trials are told.

    Raises as cluster.submit_sweep. Exits with 1 if the search is over and a trial failed.
    """
    lowest = search.check()
    first = lowest[0].config
    if first.dry_run:
        print(search.plan_text())
        return
    slurm.check()
    prepare_all(lowest)
    interruption.listen()
    submitted: dict[str, Point] = {}
    with controlling(search.sweep_dir):
        with manifest.submitting(search.sweep_dir):
            search.begin()
            search.tell(slurm.queue(search.sweep_dir), {})
            search.try_again()
        while True:
            n_open = _step(search, resources, submitted)
            if watch is None or not n_open:
                break
            time.sleep(watch)
    print(f"status: {status_command(lowest[0])}")
    if n_open:
        print(f"{n_open} of {search.describe()} are not done; the same command goes on")
        return
    cells = [cell for cell in read_cells(search.sweep_dir) if cell.name in search.cells]
    print("\n".join(search_lines(cells)))
    if any(cell.counts()["failed"] for cell in cells):
        raise SystemExit(1)


def _step(search: Search, resources: slurm.Resources, submitted: dict[str, Point]) -> int:
    """Tells, asks and submits once; how many trials are open then.

    submitted: by this command; a run of those that Slurm has no more and that has no record is not
    submitted again.
    """
    sweep_dir = search.sweep_dir
    with manifest.submitting(sweep_dir):
        queue = slurm.queue(sweep_dir)
        search.tell(queue, _lost(submitted, queue))
        n = resources.max_parallel
        search.ask(None if n is None else n - len(search.running()))
        todo = choose(search.to_start(submitted), queue).run
        prepare_all(todo)
        code = enter(todo)
        if code is not None:
            jobs = submit(todo, code.name, resources)
            print(f"{len(todo)} runs submitted, Slurm job {', '.join(jobs)}", flush=True)
        submitted |= {point.run_id: point for point in todo}
        return search.n_open()


def _lost(submitted: Mapping[str, Point], queue: Collection[str]) -> dict[str, str]:
    """The runs that Slurm does not have any more and that left no record, or that of a failure."""
    why = {None: "its Slurm task ended without a record", "failed": "failed"}
    return {
        run_id: why[status]
        for run_id, point in submitted.items()
        if run_id not in queue and (status := status_of(point.run_dir)) in why
    }
