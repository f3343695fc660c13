"""A run belongs to one process at a time, and its journal says what happened to it. Stdlib only.

A lock on .claim says so where all who share the folder see each other's locks. Some network file
systems lock for each machine alone. So .claim also holds a token of the process that took it last,
which that process looks for before it writes: another's ends it. And its date is renewed every few
seconds, so that who comes from another machine sees that somebody is there.
"""

import errno
import json
import os
import secrets
import socket
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from experiments.system import interruption, started
from experiments.system.disk import end_line, make_folder, opened, refuse_links_in, sync
from experiments.system.locks import is_locked, lock
from experiments.system.processes import Identity, identity
from experiments.system.regular_files import open_regular, read_regular

CLAIM_NAME = ".claim"
JOURNAL_NAME = "events.jsonl"
BEAT, LEASE = 5.0, 30.0  # seconds: between renewals, and after which a claim without one is free
_KEYS = ("event", "time", "by")  # what every event has
_PATIENCE = 1.0  # seconds; whoever asks if a run is held has its lock for an instant
_POLL = 0.5  # seconds
_SIZE = 1024  # bytes of a claim: all alike, so that of two writers the last one's is there, whole

_held: set[str] = set()  # tokens of this process


class RunningElsewhereError(RuntimeError):
    """Another process holds the run."""


class RunLostError(RuntimeError):
    """Says that a run's folder was moved or removed, or its .claim deleted, while held here."""


@dataclass(frozen=True, kw_only=True)
class _Holder:
    """Who took a claim last, as its file says. age: seconds since it was renewed, by this
    machine's clock. changed: when that was, in nanoseconds, by the clock of the file system.
    """

    by: str
    token: str
    host: str
    process: Identity
    age: float
    changed: int

    @property
    def is_of_this_boot(self) -> bool:
        """Whether it is on this machine, since its last start."""
        return self.process.boot is not None and self.process.boot == identity(os.getpid()).boot

    def is_there(self, age: float) -> bool:
        """Whether it may be running. On this machine that is known; on another one by its age."""
        if self.process.pid == os.getpid() and self.is_of_this_boot:
            return self.token in _held
        if self.is_of_this_boot:
            return identity(self.process.pid) == self.process
        return self.host != socket.gethostname() and age < LEASE  # else it was started again since


class Claim:
    """A run that this process holds, as long as the file that it has locked is still there and has
    its token.
    """

    def __init__(self, run_dir: Path, file: IO[bytes], token: str) -> None:
        self.run_dir, self._file, self.token = run_dir, file, token

    def check(self) -> None:
        """Raises RunLostError if the file is gone, and RunningElsewhereError if another process
        has taken the run. Opens the file, for a network file system to ask its server.

        Whoever catches it must write nothing: the folder may be another's, or be gone.
        """
        try:
            with open_regular(self.run_dir / CLAIM_NAME) as file:
                is_same = os.path.samestat(os.fstat(file.fileno()), os.fstat(self._file.fileno()))
                holder = _parsed(file) if is_same else None
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE):
                return  # unknown
            is_same = False
        if not is_same:
            raise RunLostError(
                f"{self.run_dir} was moved or removed, or its {CLAIM_NAME} deleted, while it was "
                "run: this process ends here; the same command goes on from the last checkpoint "
                "in that folder"
            )
        if holder is None or holder.token != self.token:
            by = "another process" if holder is None else holder.by
            raise RunningElsewhereError(
                f"{self.run_dir} is being run by {by} since this process had it, on a file system "
                "whose locks both could have: this process ends here"
            )

    @contextmanager
    def renewed(self) -> Iterator[None]:
        """While it lasts, the claim's date is that of a process that is there. At the end it is
        nobody's.
        """
        over = threading.Event()

        def renew() -> None:
            while not over.wait(BEAT):
                with suppress(OSError):
                    os.utime(self._file.fileno())

        thread = threading.Thread(target=renew, name="claim", daemon=True)
        _held.add(self.token)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
            _held.discard(self.token)
            with suppress(RunningElsewhereError, OSError):
                with suppress(RunLostError):
                    self.check()
                os.ftruncate(self._file.fileno(), 0)


@contextmanager
def claimed(run_dir: Path) -> Iterator[Claim]:
    """Holds the run for this process; however it ends, the system lets go of it.

    Raises RunningElsewhereError, naming the holder, if another process has its lock for longer than
    others ask, or is there without the lock. Whether one of another machine is there may take
    LEASE seconds to know, and a note on stderr says so. On a file system without flock, a warning
    (locks.py).
    """
    make_folder(run_dir)
    refuse_links_in(run_dir)
    path = run_dir / CLAIM_NAME
    while True:
        with opened(path, "r+b", create=True) as file:  # not to append: see _SIZE
            if not lock(file, _PATIENCE):
                holder = _read(path)
                by = "another process" if holder is None else holder.by
                raise RunningElsewhereError(f"{run_dir} is being run by {by}")
            if not _is_same(path, file):
                continue  # deleted between opening and locking
            _wait_until_free(run_dir)
            token = secrets.token_hex(8)
            os.pwrite(file.fileno(), _text(token), 0)
            sync(file.fileno())
            claim = Claim(run_dir, file, token)
            with claim.renewed():
                yield claim
            return


@contextmanager
def noting_interruption(claim: Claim) -> Iterator[None]:
    """An interruption that comes meanwhile is in the run's journal, with the step that it has."""

    def tell(error: KeyboardInterrupt) -> None:
        claim.check()
        step = getattr(error, "step", None)
        log_event(claim.run_dir, "interrupted", why=str(error), step=step)

    with interruption.told(tell):
        yield


def is_claimed(run_dir: Path) -> bool:
    """Whether a process holds the run now, by its lock or without one."""
    path = run_dir / CLAIM_NAME
    if is_locked(path):
        return True
    holder = _read(path)
    return holder is not None and holder.is_there(holder.age)


def _wait_until_free(run_dir: Path) -> None:
    """Until nobody can be there who has no lock that this process sees. Raises
    RunningElsewhereError if somebody is.
    """
    first = holder = _read(run_dir / CLAIM_NAME)
    while holder is not None and holder.is_there(_age(run_dir, holder)):
        assert first is not None
        if holder.is_of_this_boot or (holder.token, holder.changed) != (first.token, first.changed):
            raise RunningElsewhereError(
                f"{run_dir} is being run by {holder.by}, whose lock this process could have too: "
                "this file system does not share its locks"
            )
        if holder is first:
            print(
                f"note: {run_dir} was being run by {holder.by} within the last {LEASE:.0f} s: "
                "waiting to see if it still is",
                file=sys.stderr,
                flush=True,
            )
        time.sleep(_POLL)
        holder = _read(run_dir / CLAIM_NAME)


def _age(run_dir: Path, holder: _Holder) -> float:
    """Seconds since the claim was renewed, both by the clock of the file system."""
    try:
        with tempfile.TemporaryFile(dir=run_dir) as file:
            return (os.fstat(file.fileno()).st_mtime_ns - holder.changed) / 1e9
    except OSError:
        return holder.age


def _text(token: str) -> bytes:
    """A claim: a line for people, and a line for programs."""
    known = {"token": token, "host": socket.gethostname(), **asdict(identity(os.getpid()))}
    return f"{whoami()}\n{json.dumps(known)}\n".encode()[:_SIZE].ljust(_SIZE)


def _read(path: Path) -> _Holder | None:
    """Who took the claim last; None if nobody has it or the file doesn't say."""
    try:
        with open_regular(path) as file:
            return _parsed(file)
    except OSError:
        return None


def _parsed(file: IO[bytes]) -> _Holder | None:
    by, _, line = file.read(_SIZE).decode(errors="replace").partition("\n")
    try:
        known = json.loads(line)
        process = Identity(pid=int(known["pid"]), start=known["start"], boot=known["boot"])
        token, host = str(known["token"]), str(known["host"])
    except (ValueError, TypeError, LookupError):
        return None
    changed = os.fstat(file.fileno()).st_mtime_ns
    age = time.time() - changed / 1e9
    return _Holder(by=by, token=token, host=host, process=process, age=age, changed=changed)


def _is_same(path: Path, file: IO[bytes]) -> bool:
    """Whether the path still names the open file. If that is unknown, the answer is yes."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except OSError as error:
        return error.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ESTALE)


def whoami() -> str:
    """This process, for people: host, pid, and the job that it is part of."""
    return f"{socket.gethostname()} pid {os.getpid()}{started.in_words()}"


def log_event(run_dir: Path, event: str, **details: Any) -> None:
    """Appends a line to the run's journal: started, interrupted, finished, and when and where."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    line = {"event": event, "time": now, "by": whoami(), **details}
    path = run_dir / JOURNAL_NAME
    try:
        with opened(path, "a+b") as file:
            end_line(file)
            file.write(json.dumps(line).encode() + b"\n")
    except OSError as error:  # what it tells of has happened, and goes on
        warnings.warn(f"{path} lacks {event!r}: {error.strerror or error}", stacklevel=2)


def read_events(run_dir: Path) -> list[dict[str, Any]]:
    """Journal, oldest first; a line that is cut short or no event is left out."""
    path = run_dir / JOURNAL_NAME
    if not path.exists():
        return []
    found = []
    for line in read_regular(path).splitlines():
        try:
            event = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(event, dict) and all(isinstance(event.get(key), str) for key in _KEYS):
            found.append(event)
    return found
