"""One point of a manifest, as a task of a Slurm array runs it (sbatch/point.sh):

    python -m experiments.task SWEEP_DIR SUBMISSION [--index N]

Exit codes: 0 done, or diverged, or nothing to do; 1 failed; 2 bad input; 75 stopped by a signal and
kept to go on. Slurm puts a preempted task back into its queue by itself, and at a time limit the
task does: never both, or a finished run would run again.
"""

from experiments import interruption

if __name__ == "__main__":
    interruption.listen()  # first of all: what follows takes seconds, and an early signal kills

import argparse
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from experiments.requeue import is_first_rank, near_time_limit, requeue

T = TypeVar("T")
STOPPED = 75  # EX_TEMPFAIL
_PATIENCE, _POLL = 600.0, 5.0  # seconds
_FRUITLESS = 3  # requeues without a step in between, after which no more


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the task; returns its exit code."""
    options = _parse(arguments)
    from experiments.claims import RunningElsewhereError, events, note
    from experiments.execute import execute
    from experiments.point import make_point
    from experiments.sweep import slurm
    from experiments.sweep.progress import Heartbeat
    from experiments.sweep.restore import raw_of_run

    sweep_dir = options.sweep_dir
    try:
        submission = slurm.read_submission(sweep_dir, options.submission)
        point = make_point(raw_of_run(sweep_dir, submission.run_ids[options.index]))
    except (OSError, ValueError, IndexError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{point.describe()}: {point.run_dir}", flush=True)
    try:
        record = _when_free(partial(execute, point, Heartbeat(point.run_dir, point.plan.n_steps)))
    except RunningElsewhereError as error:
        print(f"{error}, and it did not end in {_PATIENCE:.0f} s", file=sys.stderr)
        return STOPPED
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}", file=sys.stderr, flush=True)
        if is_first_rank() and near_time_limit(submission.resources.signal_seconds):
            stops = [e.get("step") for e in events(point.run_dir) if e["event"] == "interrupted"]
            if len(stops) >= _FRUITLESS and len(set(stops[-_FRUITLESS:])) == 1:
                print(f"no step in {_FRUITLESS} turns: not requeued", file=sys.stderr)
                note(point.run_dir, "given up", why="no step between time limits")
                return 1
            note(point.run_dir, "requeued")
            requeue()
        return STOPPED
    if record.error:
        print(record.error, file=sys.stderr)
    return int(record.status == "failed")


def _when_free(run: Callable[[], T]) -> T:
    """run(), once no other process has the run: the claim of a lost node may outlive it."""
    from experiments.claims import RunningElsewhereError

    start = time.monotonic()
    while True:
        try:
            return run()
        except RunningElsewhereError as error:
            if time.monotonic() - start > _PATIENCE:
                raise
            print(f"{error}; waiting for it", flush=True)
            time.sleep(_POLL)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("sweep_dir", type=Path)
    parser.add_argument("submission", help="a name in SWEEP_DIR/slurm, without .json")
    task = os.environ.get("SLURM_ARRAY_TASK_ID")
    parser.add_argument(
        "--index",
        type=int,
        default=None if task is None else int(task),
        required=task is None,
        help="of the point in the submission; default: SLURM_ARRAY_TASK_ID",
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        code = main()
    except KeyboardInterrupt as early:  # while it was still importing or reading
        print(f"interrupted: {early}", file=sys.stderr)
        code = STOPPED
        if is_first_rank() and near_time_limit():
            requeue()
    raise SystemExit(code)
