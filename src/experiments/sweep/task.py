"""One point of a manifest, as a task of a queue runs it (sbatch/point.sh):

    python -m experiments.sweep.task SWEEP_DIR/QUEUE/SUBMISSION.json INDEX

Exit codes: 0 done, diverged or hopeless, or nothing to do; 1 failed; 2 bad input; 75 stopped by a
signal and kept to go on; 76 ended by the watchdog. A queue puts a preempted task back by itself,
and at a time limit, or when it stalls, the task does (requeue.py). What was cancelled stays ended.
"""

from experiments.system import interruption
from experiments.system.json_files import read_json

if __name__ == "__main__":
    interruption.listen()  # first of all: what follows takes seconds, and an early signal kills

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from experiments.system import code_copy
from experiments.system.requeue import MAX_RETRIES, NO_GPU

T = TypeVar("T")
STOPPED = 75  # EX_TEMPFAIL
_PATIENCE, _POLL = 600.0, 5.0  # seconds


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the task; returns its exit code."""
    options = _parse(arguments)
    own_copy = Path(__file__).resolve().parents[3]
    if own_copy.parent.name == code_copy.FOLDER and (why := code_copy.find_damage(own_copy)):
        print(
            f"error: the copy of the code {own_copy} is damaged ({why}); the command that started "
            "the sweep, or retry, makes it again and submits the point again",
            file=sys.stderr,
        )
        return 2
    from experiments.sweep import submission
    from experiments.sweep.app import app_of_sweep, find_app
    from experiments.sweep.progress import Heartbeat
    from experiments.sweep.queue import own_job, requeue_point
    from experiments.sweep.restore import raw_of_run
    from experiments.system import cards
    from experiments.system.claims import RunningElsewhereError

    try:
        given = submission.read(options.submission)
        run_id = given.run_ids[options.index]
        if given.needs_gpu and (why := cards.why_not_open(given.devices)) is not None:
            return _without_gpu(_find_sweep(options) / run_id, why)
        sweep_dir = _find_sweep(options)
        app = find_app(app_of_sweep(sweep_dir))
        (point,) = app.plan([raw_of_run(app, sweep_dir, run_id)], stored=True)
        point = app.here(point)
    except (OSError, ValueError, IndexError, KeyError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{point.describe()}: {point.run_dir}", flush=True)
    job = own_job()
    again = partial(requeue_point, job, point.run_dir, point.handling.max_retries)
    heartbeat = Heartbeat(point)
    stopped = STOPPED

    def tell(error: KeyboardInterrupt) -> int:
        nonlocal stopped
        print(f"interrupted: {error}", file=sys.stderr, flush=True)
        if job is not None and job.at_time_limit(interruption.received()):
            stopped = STOPPED if again(f"time limit: {error}") else 1
        return stopped

    try:
        with interruption.told(tell):
            record = _when_free(partial(app.execute, point, heartbeat, on_stall=again))
    except RunningElsewhereError as error:
        print(f"{error}, and it did not end in {_PATIENCE:.0f} s", file=sys.stderr)
        return STOPPED
    except RuntimeError as error:  # the run is lost, or its record can't be written
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return stopped
    if record.error:
        print(record.error, file=sys.stderr)
    return int(record.status == "failed")


def _without_gpu(run_dir: Path, why: str) -> int:
    """Exit code of a task that would train on a CPU, or on another rank's GPU."""
    from experiments.system.claims import log_event
    from experiments.system.disk import make_folder

    make_folder(run_dir)
    log_event(run_dir, NO_GPU, why=why)
    print(f"error: {why}", file=sys.stderr)
    return 1


def _stopped_early(error: KeyboardInterrupt) -> int:
    """Exit code of a task that was stopped while it was still importing or reading."""
    from experiments.sweep.queue import own_job, requeue_point
    from experiments.system.disk import make_folder

    print(f"interrupted: {error}", file=sys.stderr)
    job = own_job()
    if job is None or not job.at_time_limit(interruption.received()):
        return STOPPED
    options = _parse(None)
    max_retries = MAX_RETRIES
    try:
        found = read_json(options.submission)
        max_retries = int(found.get("max_retries", MAX_RETRIES))
        run_dir = _find_sweep(options) / found["run_ids"][options.index]
        make_folder(run_dir)
    except (OSError, ValueError, LookupError, TypeError):  # it would say so if it got so far
        run_dir = None
    why = f"time limit: {error} before the training"
    return STOPPED if requeue_point(job, run_dir, max_retries, why) else 1


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
    parser.add_argument("submission", type=Path, help="its file, SWEEP_DIR/QUEUE/NAME.json")
    parser.add_argument("index", type=int, help="of the point in the submission, from 0")
    return parser.parse_args(arguments)


def _find_sweep(options: argparse.Namespace) -> Path:
    from experiments.system.disk import followed

    return followed(options.submission.parents[1])


if __name__ == "__main__":
    try:
        try:
            with interruption.bounded(STOPPED):
                code = main()
        finally:
            interruption.ending()
    except KeyboardInterrupt as early:  # while it was still importing or reading
        code = _stopped_early(early)
    raise SystemExit(code)
