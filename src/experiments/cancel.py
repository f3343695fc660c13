"""Ends a sweep's jobs and local processes: `python -m experiments.cancel NAME`. Nothing is lost."""

from experiments.cli import Parser, exit_codes, sweep_argument, sweep_folder


def main() -> None:
    """Asks running points to save and end; withdraws queued ones."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    options = parser.parse_args()
    with exit_codes():
        from experiments.sweep import slurm
        from experiments.sweep.control import stop_controllers

        folder = sweep_folder(options)
        stopped, elsewhere = stop_controllers(folder)  # first: one may be about to submit more
        jobs = [task.job for task in slurm.queued_tasks(folder)]
        slurm.cancel(jobs)
        print(f"{len(jobs)} Slurm tasks and {stopped} local sweeps were asked to end")
        for host in elsewhere:
            print(f"a local sweep may be running on {host}: cancel it there")
        print(f"python -m experiments.retry {options.sweep} continues the points that are not done")


if __name__ == "__main__":
    main()
