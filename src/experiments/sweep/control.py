"""Who drives a local sweep: a file a controller, so that `cancel` finds it, and nobody else."""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from experiments.system.disk import make_folder, opened, remove
from experiments.system.locks import is_locked, lock
from experiments.system.ownership import distrust
from experiments.system.processes import Identity, has_open, identity
from experiments.system.regular_files import open_regular

FOLDER = ".controllers"
_MOST = 4096  # bytes: a process's number, start and boot


@contextmanager
def controlling(sweep_dir: Path) -> Iterator[None]:
    """Leaves this process's address in the sweep's folder, locked, for as long as it drives it."""
    path = sweep_dir / FOLDER / own_name()
    make_folder(path.parent)
    with opened(path, "w", permissions=0o644, encoding="utf-8") as file:
        lock(file, 1.0)
        file.write(json.dumps(asdict(identity(os.getpid()))))
        file.flush()
        try:
            yield
        finally:
            remove(path)


def own_name() -> str:
    """This process as a controller: host and process number."""
    return f"{socket.gethostname()}-{os.getpid()}"


def is_controller(sweep_dir: Path, name: str | None) -> bool:
    """Whether the process of that name drives the sweep now."""
    return name is not None and is_locked(sweep_dir / FOLDER / name)


def is_driven(sweep_dir: Path) -> bool:
    """Whether any process drives the sweep now."""
    return any(is_locked(path) for path in (sweep_dir / FOLDER).glob("*"))


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
    """Whether the controller of that file was signalled. Removes the file of an ended process.

    Who can write the file could name any process in it: so it must be this user's, and the process
    must be this user's too and have it open.
    """
    try:
        with open_regular(path, follow=False) as file:
            found = os.fstat(file.fileno())
            known = Identity(**json.loads(file.read(_MOST)))
    except (OSError, ValueError, TypeError):
        _skip(f"{path} can't be read")
        return False
    if (why := distrust(found)) is not None:
        _skip(f"{path} {why}")
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
            if not has_open(pid, found):
                _skip(f"process {pid} is another user's, or does not have {path} open")
                return False
            signal.pidfd_send_signal(handle, signal.SIGTERM)  # INT is ignored behind a script's &
            return True
    except ProcessLookupError:
        pass  # ended by itself
    finally:
        if handle is not None:
            os.close(handle)
    if not is_locked(path):  # killed; its number may be another's by now
        remove(path)
    return False


def _skip(why: str) -> None:
    print(f"note: {why}; no process was signalled", file=sys.stderr)
