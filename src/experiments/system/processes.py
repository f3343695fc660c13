"""Which process a file speaks of, and whether it is still there. Stdlib only.

A pid alone proves nothing: numbers come again, in containers soon. With the time that the process
was started at, counted from the machine's start, and which start that was, it names one process.
"""

import os
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
    """Of the process that has that number now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        fields = stat.rpartition(")")[2].split()
        if fields[_STATE] in _ENDED:  # and nobody has asked yet how
            return Identity(pid=pid, start=None, boot=None)
        start, boot = int(fields[_START]), _BOOT.read_text().strip()
    except (OSError, ValueError, IndexError):
        return Identity(pid=pid, start=None, boot=None)
    return Identity(pid=pid, start=start, boot=boot)


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
