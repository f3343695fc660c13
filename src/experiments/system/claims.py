"""A run belongs to one process at a time, and its journal says what happened to it. Stdlib only."""

import errno
import json
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from experiments.system.disk import make_folder
from experiments.system.locks import is_locked, lock

CLAIM_NAME = ".claim"
JOURNAL_NAME = "events.jsonl"
_KEYS = ("event", "time", "by")  # what every event has
_PATIENCE = 1.0  # seconds; whoever asks if a run is held has its lock for an instant


class RunningElsewhereError(RuntimeError):
    """Another process holds the run."""


class RunLostError(RuntimeError):
    """The run's folder was moved or removed, or its .claim deleted, while this process held it."""


class Claim:
    """A run that this process holds, as long as the file that it has locked is still there."""

    def __init__(self, run_dir: Path, file: IO[str]) -> None:
        self.run_dir, self._file = run_dir, file

    def check(self) -> None:
        """Raises RunLostError if another may hold the run by now. One look at a file: microseconds.

        Whoever catches it must write nothing: the folder may be another's, or be gone.
        """
        if not _is_same(self.run_dir / CLAIM_NAME, self._file):
            raise RunLostError(
                f"{self.run_dir} was moved or removed, or its {CLAIM_NAME} deleted, while it was "
                "run: this process ends here; the same command goes on from the last checkpoint "
                "in that folder"
            )


@contextmanager
def claimed(run_dir: Path) -> Iterator[Claim]:
    """Holds the run for this process; however it ends, the system lets go of it.

    Raises RunningElsewhereError, naming the holder, if another process has it for longer than
    others ask: on this host, or on any that shares the folder over a file system with flock. Where
    there is none, a warning (locks.py).
    """
    make_folder(run_dir)
    path = run_dir / CLAIM_NAME
    while True:
        with path.open("a+", encoding="utf-8") as file:
            if not lock(file, _PATIENCE):
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise RunningElsewhereError(f"{run_dir} is being run by {holder}")
            if not _is_same(path, file):
                continue  # deleted between opening and locking
            file.truncate(0)
            file.write(whoami())
            file.flush()
            yield Claim(run_dir, file)
            return


def is_claimed(run_dir: Path) -> bool:
    """Whether a process holds the run now."""
    return is_locked(run_dir / CLAIM_NAME)


def _is_same(path: Path, file: IO[str]) -> bool:
    """Whether the path still names the open file. If that is unknown, the answer is yes."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def whoami() -> str:
    """This process, for people: host, pid, Slurm job."""
    job = slurm_job()
    return f"{socket.gethostname()} pid {os.getpid()}" + (f" Slurm job {job}" if job else "")


def slurm_job() -> str | None:
    """The Slurm job of this process, as squeue writes it: 12, or 12_3 of an array."""
    array, task = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    return f"{array}_{task}" if array and task else os.environ.get("SLURM_JOB_ID")


def log_event(run_dir: Path, event: str, **details: Any) -> None:
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


def read_events(run_dir: Path) -> list[dict[str, Any]]:
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
