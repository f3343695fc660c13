"""Ends a sweep's jobs and local processes: `python -m experiments.cancel NAME`. Nothing is lost."""

from experiments.sweep.folders import sweep_argument, sweep_folder
from experiments.system.command import Parser, exit_codes


def main() -> None:
    """Asks running points to save and end; withdraws queued ones."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    options = parser.parse_args()
    with exit_codes():
        from experiments.sweep.control import stop_controllers
        from experiments.sweep.queue import queues

        folder = sweep_folder(options)
        stopped, elsewhere = stop_controllers(folder)  # first: one may be about to submit more
        cancelled = {queue.title: queue.cancel(folder) for queue in queues()}
        words = [f"{n} {title} tasks" for title, n in cancelled.items() if n]
        print(" and ".join([*words, f"{stopped} local sweeps"]) + " were asked to end")
        for host in elsewhere:
            print(f"a local sweep may be running on {host}: cancel it there")
        print(f"python -m experiments.retry {options.sweep} continues the points that are not done")


if __name__ == "__main__":
    main()
