"""Goes on with what a sweep has not finished: `python -m experiments.retry NAME`.

From the manifest, without the command that made it: where it ran before (Slurm with the resources
of its last submission, or this machine), by the code as it is now.
"""

import argparse

from experiments.cli import exit_codes, sweep_argument, sweep_folder


def main() -> None:
    """Exit codes as those of experiments.run."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    parser.add_argument("--diverged", action="store_true", help="diverged runs too, anew")
    parser.add_argument("--local", action="store_true", help="here, even if on Slurm before")
    parser.add_argument("--workers", type=int, help="points at once on this machine")
    options = parser.parse_args()
    with exit_codes():
        from experiments.sweep import cluster, local, slurm
        from experiments.sweep.restore import raws_of

        folder = sweep_folder(options)
        found, n_refused = raws_of(folder)
        raws = [{**raw, "retry": "all" if options.diverged else "failed"} for raw in found]
        before = slurm.submissions(folder)
        if before and not options.local:
            cluster.submit_sweep(raws, slurm.read_submission(folder, before[-1]).resources)
        else:
            local.run_sweep(raws, options.workers)
        if n_refused:
            raise ValueError(f"{n_refused} points could not be run: see the lines above")


if __name__ == "__main__":
    main()
