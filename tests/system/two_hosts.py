"""A command of a machine that shares its folders with another one, and not its locks:

    python -m tests.system.two_hosts CONFIG.json NAME BOOT READY START BARRIER

trains the point of that config as `python -m experiments.run` does. Locks are this process's own.
BOOT: a file with the kernel's id of its start, and NAME the host's. When all is imported it makes
the file READY, and waits for the file START. BARRIER: a folder in which two processes wait for each
other between their looks at .claim and their writes of it. Each may be "".
"""

import fcntl
import importlib
import json
import socket
import sys
import time
from pathlib import Path

from experiments.system import claims, processes
from experiments.system.command import exit_codes


def main() -> None:
    """Exit codes as those of experiments.run."""
    config, name, boot, ready, start, barrier = sys.argv[1:]
    fcntl.flock = lambda file, how: None
    socket.gethostname = lambda: name
    if boot:
        processes._BOOT = Path(boot)
    claims.BEAT, claims.LEASE = 0.2, 3.0
    if barrier:
        _wait_between_look_and_write(Path(barrier))
    from experiments.sweep.one_run import run_one

    importlib.import_module("experiments.training.execute")

    if ready:
        Path(ready).touch()
    while start and not Path(start).exists():
        time.sleep(0.01)
    with exit_codes():
        run_one(json.loads(Path(config).read_text()))


def _wait_between_look_and_write(barrier: Path) -> None:
    plain = claims._wait_until_free

    def look(run_dir: Path) -> None:
        plain(run_dir)
        (barrier / str(time.monotonic_ns())).touch()
        while len(list(barrier.iterdir())) < 2:
            time.sleep(0.001)

    claims._wait_until_free = look


if __name__ == "__main__":
    main()
