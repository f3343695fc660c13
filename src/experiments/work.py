"""Runs points of a sweep that was left to workers: `python -m experiments.work NAME`.

Start it as often as you like, on any machine that sees the results. Each takes the next point that
nobody has, until none is left (docs/workers.md).
"""

from experiments.sweep.folders import sweep_argument, sweep_folder
from experiments.system import interruption
from experiments.system.command import Parser, at_least, exit_codes


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
    options = parser.parse_args()
    with exit_codes():
        interruption.listen()
        folder = sweep_folder(options)
        from experiments.sweep.working import Worker  # seconds of imports

        code = Worker(folder, most=options.max, stays=options.wait).work()
        if code:
            raise SystemExit(code)


if __name__ == "__main__":
    main()
