"""Whether a point that ended without a record is tried again. Standard library only.

What counts is in the run's folder: a point is tried again from the same checkpoint (or, without
one, from its start) at most trainer.max_retries times; each new checkpoint starts the count at 0.
What `cancel` ended stays ended.
"""

from pathlib import Path

from experiments.system.claims import log_event, read_events

MAX_RETRIES = 2  # trainer.max_retries, where the config can't be known
AGAIN = ("tried again", "requeued")  # events: on this machine, and in a queue
GIVEN_UP = "given up"
NO_GPU = "no GPU"  # event: where one was planned, its process found none, and ended
STALLED = 76  # exit code of a process that made no step for too long


def try_again(run_dir: Path, max_retries: int, event: str, why: str) -> bool:
    """Whether to try the point again. Writes `event`, one of AGAIN, or given up to the journal.

    After given up the count starts at 0: the next try is a person's decision.
    """
    checkpoint = _checkpoint(run_dir)
    n_tries = 0
    for past in reversed(read_events(run_dir)):
        if past["event"] == GIVEN_UP:
            break
        if past["event"] in AGAIN:
            if past.get("checkpoint") != checkpoint:
                break
            n_tries += 1
    if n_tries >= max_retries:
        log_event(run_dir, GIVEN_UP, why=f"{why}; no new checkpoint in {n_tries + 1} tries")
        return False
    log_event(run_dir, event, why=why, checkpoint=checkpoint)
    return True


def _checkpoint(run_dir: Path) -> int | None:
    """When the last checkpoint was written, in nanoseconds: it names it."""
    try:
        return (run_dir / "last.ckpt").stat().st_mtime_ns
    except OSError:
        return None
