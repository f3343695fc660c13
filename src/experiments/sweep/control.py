"""Who drives a local sweep: a file a controller, so that `cancel` can find it."""

import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FOLDER = ".controllers"


@contextmanager
def controlling(sweep_dir: Path) -> Iterator[None]:
    """Leaves this process's address in the sweep's folder for as long as it drives it."""
    path = sweep_dir / FOLDER / f"{socket.gethostname()}-{os.getpid()}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    try:
        yield
    finally:
        path.unlink(missing_ok=True)


def stop_controllers(sweep_dir: Path) -> tuple[int, list[str]]:
    """Interrupts the controllers on this host; their runs save and end.

    Returns how many, and the other hosts that have one, which can't be reached from here.
    """
    stopped, elsewhere = 0, []
    for path in sorted((sweep_dir / FOLDER).glob("*")):
        host, _, pid = path.name.rpartition("-")
        if host != socket.gethostname():
            elsewhere.append(host)
        elif _is_controller(int(pid)):
            os.kill(int(pid), signal.SIGTERM)  # INT is ignored by what a script put behind &
            stopped += 1
        else:
            path.unlink(missing_ok=True)  # killed, and its number is another's by now
    return stopped, elsewhere


def _is_controller(pid: int) -> bool:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return b"python" in command
