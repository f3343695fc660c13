"""Runs points of a sweep that was left to workers: `python -m experiments.work NAME`.

Start it as often as you like, on any machine that sees the results. Each takes the next point that
nobody has, until none is left (docs/workers.md).
"""

from pathlib import Path

from experiments.records.record import CUT_SHORT
from experiments.sweep.folders import sweep_argument, sweep_folder
from experiments.sweep.queues.workers import Workers
from experiments.sweep.states import read_states
from experiments.sweep.status_table import states_text
from experiments.system import interruption
from experiments.system.command import Parser, at_least, exit_codes
from experiments.system.plain_text import printable


def main() -> None:
    """Exit codes: 0 nothing is left to take, or --max points have ended; 1 a point failed here;
    2 bad input; 130 interrupted or cancelled.
    """
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    parser.add_argument(
        "--max", type=at_least(1), metavar="N", help="end after so many points (default: all)"
    )
    parser.add_argument(
        "--wait",
        action="store_true",
        help="stay while other workers run points, to take what they leave",
    )
    parser.add_argument(
        "--trust",
        action="store_true",
        help="run the app that its folder names, though you did not write that here",
    )
    options = parser.parse_args()
    with exit_codes():
        interruption.listen()
        folder = sweep_folder(options)
        if not _waits(folder):
            return
        from experiments.sweep.working import Worker  # seconds of imports

        code = Worker(folder, most=options.max, stays=options.wait, trusted=options.trust).work()
        if code:
            raise SystemExit(code)


def _waits(sweep_dir: Path) -> bool:
    """Whether any point waits for a worker; says how the sweep stands if none does. Raises
    ValueError if it has points to run that were never left to workers.
    """
    if Workers.waiting(sweep_dir):
        return True
    Workers.clean(sweep_dir)
    points = read_states(sweep_dir)
    n_left = sum(point.state not in ("done", *CUT_SHORT) for point in points)
    again = f"python -m experiments.retry {sweep_dir}"
    if n_left and Workers.last(sweep_dir) is None:
        raise ValueError(
            f"{sweep_dir} was not left to workers; {again} --to-workers leaves them the {n_left} "
            f"of its {len(points)} runs that are not done"
        )
    then = f"; {again} leaves them what is not done" if n_left else ""
    print(printable(f"no run of {sweep_dir} waits for a worker: {states_text(points)}{then}"))
    return False


if __name__ == "__main__":
    main()
