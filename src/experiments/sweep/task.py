"""One point of a manifest, as a task of a Slurm array runs it (sbatch/point.sh):

    python -m experiments.sweep.task SWEEP_DIR SUBMISSION [--index N]

Exit codes: 0 done, or diverged, or nothing to do; 1 failed; 2 bad input; 75 stopped by a signal and
kept to go on; 76 ended by the watchdog. Slurm puts a preempted task back into its queue by itself,
and at a time limit, or when it stalls, the task does (requeue.py). What scancel ended stays ended.
"""

from experiments.system import interruption

if __name__ == "__main__":
    interruption.listen()  # first of all: what follows takes seconds, and an early signal kills

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from experiments.system import code_copy
from experiments.system.requeue import MAX_RETRIES, at_time_limit, is_first_rank, requeue_point

T = TypeVar("T")
STOPPED = 75  # EX_TEMPFAIL
_PATIENCE, _POLL = 600.0, 5.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the task; returns its exit code."""
    options = _parse(arguments)
    own_copy = Path(__file__).resolve().parents[3]
    if own_copy.parent.name == code_copy.FOLDER and (why := code_copy.damage_of(own_copy)):
        print(
            f"error: the copy of the code {own_copy} is damaged ({why}); the command that started "
            "the sweep, or retry, makes it again and submits the point again",
            file=sys.stderr,
        )
        return 2
    from experiments.execute import execute
    from experiments.point import make_point
    from experiments.sweep import slurm
    from experiments.sweep.progress import Heartbeat
    from experiments.sweep.restore import raw_of_run
    from experiments.system.claims import RunningElsewhereError

    sweep_dir = options.sweep_dir
    try:
        submission = slurm.read_submission(sweep_dir, options.submission)
        point = make_point(raw_of_run(sweep_dir, submission.run_ids[options.index]))
    except (OSError, ValueError, IndexError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{point.describe()}: {point.run_dir}", flush=True)
    again = partial(requeue_point, point.run_dir, point.config.trainer.max_retries)
    heartbeat = Heartbeat(point.run_dir, point.plan.n_steps)
    try:
        record = _when_free(partial(execute, point, heartbeat, on_stall=again))
    except RunningElsewhereError as error:
        print(f"{error}, and it did not end in {_PATIENCE:.0f} s", file=sys.stderr)
        return STOPPED
    except RuntimeError as error:  # the run is lost, or its record can't be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as error:
        print(f"interrupted: {error}", file=sys.stderr, flush=True)
        signal = interruption.received()
        if is_first_rank() and at_time_limit(signal, submission.resources.signal_seconds):
            return STOPPED if again(f"time limit: {error}") else 1
        return STOPPED
    if record.error:
        print(record.error, file=sys.stderr)
    return int(record.status == "failed")


def _stopped_early(error: KeyboardInterrupt) -> int:
    """The exit code of a task that was stopped while it was still importing or reading."""
    print(f"interrupted: {error}", file=sys.stderr)
    if is_first_rank() and at_time_limit(interruption.received()):
        options = _parse(None)
        max_retries = MAX_RETRIES
        try:
            path = options.sweep_dir / "slurm" / f"{options.submission}.json"
            submission = json.loads(path.read_text(encoding="utf-8"))
            max_retries = int(submission.get("max_retries", MAX_RETRIES))
            run_dir = options.sweep_dir / submission["run_ids"][options.index]
            run_dir.mkdir(exist_ok=True)
        except (OSError, ValueError, LookupError, TypeError):  # it would say so if it got so far
            run_dir = None
        if not requeue_point(run_dir, max_retries, f"time limit: {error} before the training"):
            return 1
    return STOPPED


def _when_free(run: Callable[[], T]) -> T:
    """run(), once no other process has the run: the claim of a lost node may outlive it."""
    from experiments.system.claims import RunningElsewhereError

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
        try:
            code = main()
        finally:
            interruption.ending()
    except KeyboardInterrupt as early:  # while it was still importing or reading
        code = _stopped_early(early)
    raise SystemExit(code)
