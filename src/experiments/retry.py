"""Goes on with what a sweep has not finished: `python -m experiments.retry NAME`.

From the manifest, without the command that made it: where it ran before (a cluster's queue with the
resources of its last submission, or this machine), by the code as it is now.
"""

from collections.abc import Sequence
from pathlib import Path

from experiments.sweep.folders import sweep_argument, sweep_folder
from experiments.system.command import Parser, exit_codes


def main() -> None:
    """Exit codes as those of experiments.run."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    parser.add_argument(
        "--diverged",
        action="store_true",
        help="diverged and hopeless runs too, from the first step",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--local",
        action="store_true",
        help="run on this machine, wherever the sweep ran before",
    )
    where.add_argument(
        "--to-workers",
        action="store_true",
        help="leave it to workers (experiments.work), wherever the sweep ran before",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run what its last submission asks of a shell, and the app that its folder names, "
        "though you did not write them here",
    )
    parser.add_argument("--workers", type=int, help="points at once on this machine")
    parser.add_argument(
        "--run", action="append", metavar="ID", help="this run alone, by its id or the start of it"
    )
    options = parser.parse_args()
    with exit_codes():
        from experiments.sweep.app import app_of_sweep, find_app
        from experiments.sweep.many_runs import run_sweep
        from experiments.sweep.queue import last_used
        from experiments.sweep.queues.local import Local
        from experiments.sweep.queues.workers import Workers
        from experiments.sweep.restore import read_raws

        folder = sweep_folder(options)
        wanted = None if options.run is None else runs_named(folder, options.run)
        place = app_of_sweep(folder, trusted=options.trust)
        found, n_refused = read_raws(find_app(place), folder, wanted)
        raws = [{**raw, "retry": "all" if options.diverged else "failed"} for raw in found]
        own = Workers() if options.to_workers else Local(n_workers=options.workers)
        chosen = options.local or options.to_workers
        before = None if chosen else last_used(folder, trusted=options.trust)
        run_sweep(raws, before or own, stored=True, place=place)
        if n_refused:
            raise ValueError(f"{n_refused} points could not be run: see the lines above")


def runs_named(sweep_dir: Path, names: Sequence[str]) -> set[str]:
    """Run ids that begin with these names. Raises ValueError if one names none or several."""
    from experiments.sweep import manifest
    from experiments.sweep.lost import list_folders, lost_entries

    known = set(manifest.read(sweep_dir))
    known |= {entry.run_id for entry in lost_entries(sweep_dir, list_folders(sweep_dir) - known)}
    found = set()
    for name in names:
        fits = {name} if name in known else {run_id for run_id in known if run_id.startswith(name)}
        if not name or len(fits) != 1:
            what = f"names {len(fits)} runs of" if fits else "is not a run of"
            remedy = f"python -m experiments.status {sweep_dir} lists their ids"
            raise ValueError(f"--run {name!r} {what} {sweep_dir}, and must name one; {remedy}")
        found |= fits
    return found


if __name__ == "__main__":
    main()
