"""Points that wait for a worker: a file a point, results/<sweep>/workers/waiting/<run_id>.

It stays while a worker runs the point, so that one which is killed leaves the point to the others,
and goes when the point has ended or is withdrawn. It holds how many events the run's journal had by
then: what has ended or failed since is over, whoever ran it. Standard library only, and without
locks: who runs a point has its claim.
"""

import os
import re
from collections.abc import Collection
from pathlib import Path

from experiments.system.claims import read_events
from experiments.system.disk import make_folder, remove, sync_file, write_text_atomically
from experiments.system.regular_files import read_regular
from experiments.system.requeue import GIVEN_UP

FOLDER = "workers"  # of a sweep, as its queue is called
_WAITING = "waiting"
_OVER = ("done", "diverged", "hopeless", "failed", GIVEN_UP)  # events: what it waited for


def put(sweep_dir: Path, run_ids: Collection[str]) -> None:
    """From now on they wait, whatever has become of them."""
    folder = sweep_dir / FOLDER / _WAITING
    make_folder(folder)
    for run_id in run_ids:
        n_events = len(read_events(sweep_dir / run_id))
        write_text_atomically(folder / run_id, f"{n_events}\n", durable=False)
    sync_file(folder)


def find(sweep_dir: Path) -> set[str]:
    """Run ids of those that wait or are run by a worker; some may have ended a moment ago."""
    try:
        names = os.listdir(sweep_dir / FOLDER / _WAITING)  # noqa: PTH208
    except (FileNotFoundError, NotADirectoryError):
        return set()
    return {name for name in names if re.fullmatch(r"\w[\w-]*", name)}


def is_there(sweep_dir: Path, run_id: str) -> bool:
    """Whether it is one of them. True where that can't be known."""
    try:
        (sweep_dir / FOLDER / _WAITING / run_id).lstat()
    except FileNotFoundError:
        return False
    except OSError:
        pass
    return True


def is_over(sweep_dir: Path, run_id: str) -> bool:
    """Whether it has ended, or failed, since it was put there."""
    try:
        n_before = int(read_regular(sweep_dir / FOLDER / _WAITING / run_id))
    except (OSError, ValueError):  # withdrawn, or another's hand
        n_before = 0
    return has_ended(sweep_dir, run_id, n_before)


def has_ended(sweep_dir: Path, run_id: str, n_before: int) -> bool:
    """Whether it has ended, or failed, since its journal had n_before events."""
    return any(event["event"] in _OVER for event in read_events(sweep_dir / run_id)[n_before:])


def take_out(sweep_dir: Path, run_id: str) -> None:
    """It has ended, or is withdrawn: its worker ends it within seconds."""
    remove(sweep_dir / FOLDER / _WAITING / run_id)
