"""Which process a file speaks of, and whether it is still there. Stdlib only.

A pid alone proves nothing: numbers come again, in containers soon. With the time that the process
was started at, counted from the machine's start, and which start that was, it names one process.
"""

import hashlib
import os
import re
import secrets
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_STATE, _START = 0, 19  # of what follows the command's name in /proc/<pid>/stat: fields 3 and 22
_ENDED = ("Z", "X")


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process. start: in clock ticks since boot. boot: the kernel's id of that boot. Both are
    None on a system without /proc, and of a process that has ended.
    """

    pid: int
    start: int | None
    boot: str | None


def identity(pid: int) -> Identity:
    """Identity of the process that has that number now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        if fields[_STATE] in _ENDED:  # and nobody has asked yet how
            return Identity(pid=pid, start=None, boot=None)
        start, boot = int(fields[_START]), _BOOT.read_text().strip()
    except (OSError, ValueError, IndexError):
        return Identity(pid=pid, start=None, boot=None)
    return Identity(pid=pid, start=start, boot=boot)


def mark() -> str:
    """A part of a file's name, never given twice, that says which process made it."""
    own = identity(os.getpid())
    return "-".join((secrets.token_hex(4), str(own.pid), str(own.start or 0), *_machine(own)))


def has_ended(mark: str) -> bool:
    """Whether the process of a mark has surely ended. Of another machine's that is not known."""
    found = re.fullmatch(r"[0-9a-f]{8}-(\d+)-(\d+)-([0-9a-f]+)-([0-9a-f]+)", mark)
    if found is None:
        return False
    pid, start, *machine = found.groups()
    host, boot = _machine(identity(os.getpid()))
    if machine[0] != host:
        return False
    return machine[1] != boot or identity(int(pid)).start != int(start)


def _machine(own: Identity) -> tuple[str, str]:
    """This host and its last start, short. Without /proc all processes are of another machine."""
    words = (socket.gethostname() if own.boot else secrets.token_hex(4), own.boot or "")
    host, boot = (hashlib.sha256(word.encode()).hexdigest()[:8] for word in words)
    return host, boot


def has_open(pid: int, file: os.stat_result) -> bool:
    """Whether a process of this user has that file open."""
    with suppress(OSError):
        if Path(f"/proc/{pid}").stat().st_uid != os.getuid():
            return False
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                if os.path.samestat(descriptor.stat(), file):
                    return True
    return False


def started_by(pid: int) -> list[int]:
    """Processes that it has started, and what those have; none where /proc doesn't say."""
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return [each for child in found for each in (child, *started_by(child))]
