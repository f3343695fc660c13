"""Who drives a local sweep: a file a controller, so that `cancel` finds it, and nobody else.

A pid alone proves nothing: numbers come again, in containers soon. With the time that the process
was started at, counted from the machine's start, and which start that was, it names one process.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from experiments.system.locks import is_locked, lock

FOLDER = ".controllers"
_BOOT = Path("/proc/sys/kernel/random/boot_id")
_START = 19  # of what follows the command's name in /proc/<pid>/stat: field 22, in clock ticks


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A process. start: in clock ticks since boot. boot: the kernel's id of that boot. Both are
    None on a system without /proc.
    """

    pid: int
    start: int | None
    boot: str | None


@contextmanager
def controlling(sweep_dir: Path) -> Iterator[None]:
    """Leaves this process's address in the sweep's folder, locked, for as long as it drives it."""
    path = sweep_dir / FOLDER / own_name()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8") as file:
        lock(file, 1.0)
        file.write(json.dumps(asdict(identity(os.getpid()))))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def own_name() -> str:
    """This process as a controller: host and process number."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_controller(sweep_dir: Path, name: str | None) -> bool:
    """Whether the process of that name drives the sweep now."""
    return name is not None and is_locked(sweep_dir / FOLDER / name)


def identity(pid: int) -> Identity:
    """Of the process that has that number now."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        start, boot = int(stat.rpartition(")")[2].split()[_START]), _BOOT.read_text().strip()
    except (OSError, ValueError, IndexError):
        return Identity(pid=pid, start=None, boot=None)
    return Identity(pid=pid, start=start, boot=boot)


def stop_controllers(sweep_dir: Path) -> tuple[int, list[str]]:
    """Interrupts the controllers on this host; their runs save and end.

    Returns how many, and the other hosts that have one, which can't be reached from here. Says on
    stderr what it skipped and why; only a process proven to be a controller is signalled.
    """
    stopped, elsewhere = 0, []
    for path in sorted((sweep_dir / FOLDER).glob("*")):
        host, _, pid = path.name.rpartition("-")
        if not host or not pid.isdecimal():
            print(f"note: {path} is not a controller's file; ignored", file=sys.stderr)
        elif host != socket.gethostname():
            elsewhere.append(host)
        elif _stop(path, int(pid)):
            stopped += 1
    return stopped, elsewhere


def _stop(path: Path, pid: int) -> bool:
    """Whether the controller of that file was signalled. Removes the file of an ended process."""
    try:
        known = Identity(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        print(f"note: {path} can't be read; no process was signalled", file=sys.stderr)
        return False
    if known.start is None:
        print(
            f"note: whether process {pid} is still this sweep's can't be found out on this system, "
            f"which has no /proc; end it yourself (kill {pid})",
            file=sys.stderr,
        )
        return False
    try:
        handle = os.pidfd_open(pid)  # of this process, whoever has its number when it is signalled
    except (OSError, OverflowError):
        handle = None
    try:
        if handle is not None and known == identity(pid) and known.pid == pid:
            signal.pidfd_send_signal(handle, signal.SIGTERM)  # INT is ignored behind a script's &
            return True
    except ProcessLookupError:
        pass  # ended by itself
    finally:
        if handle is not None:
            os.close(handle)
    if not is_locked(path):  # killed; its number may be another's by now
        path.unlink(missing_ok=True)
    return False
