"""N-th file operation of a run: counted by an audit hook, and ended, denied or cut short there.

Counted are opens for writing, renames, removals, links, changes of mode and new folders, below one
folder. What torch or a kernel writes without Python's open is not seen.
"""

import errno
import os
import random
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.soak.power import LOSSES, Disk, on_exit

KINDS = ("kill", "torn", "short", "ENOSPC", "full", "TERM", "USR1", *LOSSES)
_PATHS = {  # audit event -> how many of its first arguments are paths
    "os.rename": 2, "os.remove": 1, "os.rmdir": 1, "os.chmod": 1, "os.mkdir": 1, "os.link": 2,
    "os.symlink": 2, "os.truncate": 1,
}  # fmt: skip
DONE = ", done"  # behind an operation of a run that has a record by then
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
Act = Callable[[int, str, Path, int], None]


def watch(folder: Path, act: Act) -> None:
    """Calls act(n, operation, path, flags of an open) before each operation below the folder, for
    this process's life: no audit hook can be removed.
    """
    prefix = str(folder)
    state = {"n": 0, "busy": False}

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if state["busy"]:
            return
        path = _path_of(event, arguments)
        if path is None or not (path == prefix or path.startswith(prefix + os.sep)):
            return
        state["n"] += 1
        state["busy"] = True
        try:
            flags = arguments[2] if event == "open" else 0
            act(state["n"], event.removeprefix("os."), Path(path), flags)
        finally:
            state["busy"] = False

    sys.addaudithook(hook)


def strike(folder: Path, at: int, kind: str, cut: int, pipe: int) -> None:
    """Has the kind of fault happen at the at-th operation; writes what it was to the pipe `pipe`.

    kill: before it. torn: killed once it has written `cut` bytes; short: the write fails there;
    both need an open, or nothing happens. ENOSPC: it is refused; full: so is every later open.
    One of LOSSES: killed, and what a loss of power leaves is put into left_of(folder); also at the
    end, if there are fewer operations. Else a signal's name, sent to the process itself.
    """
    if kind in LOSSES:
        folder.mkdir(exist_ok=True)
        disk = Disk(folder)

        def lose(what: str) -> None:
            os.write(pipe, what.encode())
            disk.lose(kind, random.Random(f"{at} {cut}"), left_of(folder))
            os.kill(os.getpid(), signal.SIGKILL)

        on_exit(lambda: lose("the end"))
    unlimited = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))

    def act(n: int, operation: str, path: Path, flags: int) -> None:
        if n > at and kind in ("torn", "short"):
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
            return
        if n > at and kind == "full" and operation in ("open", "mkdir"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        if n != at:
            return
        if kind in ("torn", "short"):
            if operation != "open":
                return
            size = path.stat().st_size if path.exists() and not flags & os.O_TRUNC else 0
            if kind == "torn":
                signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
            os.write(pipe, f"{operation}:{path.name} +{cut}".encode())
            resource.setrlimit(resource.RLIMIT_FSIZE, (size + cut, unlimited[1]))
            return
        if kind in ("ENOSPC", "full") and operation in ("remove", "rmdir", "chmod"):
            return  # they need no room
        if kind in LOSSES:
            lose(f"{operation}:{path.name}")
        was_done = any(folder.glob("*/*/record.json"))
        os.write(pipe, f"{operation}:{path.name}{DONE * was_done}".encode())
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        elif kind in ("ENOSPC", "full"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        else:
            os.kill(os.getpid(), signal.Signals[f"SIG{kind}"])

    watch(folder, act)


def left_of(folder: Path) -> Path:
    """Where strike() puts what a loss of power leaves of it."""
    return folder.with_name(f"{folder.name}-left")


def _path_of(event: str, arguments: tuple[Any, ...]) -> str | None:
    """Path that is written, the second of two; None for what writes nothing."""
    if event == "open":
        path, _, flags = arguments
        if not (isinstance(flags, int) and flags & _WRITES):
            return None
    elif event in _PATHS:
        path = arguments[_PATHS[event] - 1]
        if event == "os.mkdir" and Path(os.fsdecode(path)).is_dir():
            return None  # exist_ok
    else:
        return None
    return None if isinstance(path, int) else str(Path.cwd() / os.fsdecode(path))
