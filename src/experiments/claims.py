"""A run belongs to one process at a time, and its journal says what happened to it. Stdlib only."""

import errno
import fcntl
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

CLAIM_NAME = ".claim"
JOURNAL_NAME = "events.jsonl"
_KEYS = ("event", "time", "by")  # what every event has
_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)


class RunningElsewhereError(RuntimeError):
    """Another process holds the run."""


@contextmanager
def claimed(run_dir: Path) -> Iterator[None]:
    """Holds the run for this process; however it ends, the system lets go of it.

    Raises RunningElsewhereError, naming the holder, if another process has it: on this host, or on
    any that shares the folder over a file system with flock. Where there is none, it warns.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / CLAIM_NAME).open("a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in _HELD:
                file.seek(0)
                raise RunningElsewhereError(
                    f"{run_dir} is being run by {file.read().strip() or 'another process'}"
                ) from None
            warnings.warn(f"{run_dir} can't be locked ({error}): run it once only", stacklevel=3)
        file.truncate(0)
        file.write(whoami())
        file.flush()
        yield


def is_claimed(run_dir: Path) -> bool:
    """Whether a process holds the run now."""
    path = run_dir / CLAIM_NAME
    if not path.exists():
        return False
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _HELD
    return False


def whoami() -> str:
    """This process, for people: host, pid, Slurm job."""
    job = slurm_job()
    return f"{socket.gethostname()} pid {os.getpid()}" + (f" Slurm job {job}" if job else "")


def slurm_job() -> str | None:
    """The Slurm job of this process, as squeue writes it: 12, or 12_3 of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def note(run_dir: Path, event: str, **details: Any) -> None:
    """Appends a line to the run's journal: started, interrupted, finished, and when and where."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"event": event, "time": now, "by": whoami(), **details}
    path = run_dir / JOURNAL_NAME
    try:
        with path.open("a+b") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":  # a line cut short by a kill or a full disk stays alone
                    file.write(b"\n")
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:  # what it tells of has happened, and goes on
        warnings.warn(f"{path} lacks {event!r}: {error.strerror or error}", stacklevel=2)


def events(run_dir: Path) -> list[dict[str, Any]]:
    """The journal, oldest first; a line that is cut short or no event is left out."""
    path = run_dir / JOURNAL_NAME
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and all(isinstance(event.get(key), str) for key in _KEYS):
            found.append(event)
    return found
