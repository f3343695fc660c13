"""Sweep of an own app by its command, a launcher each: real processes, as a user starts them."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self

from experiments.sweep.queues.workers import Workers
from experiments.system.claims import is_claimed
from tests.conftest import REPOSITORY
from tests.soak.processes import alive
from tests.soak.walk.walk import has_ended

LAUNCHERS = ("local", "workers", "dask")
SEEDS = (0, 1, 2, 3)
_APP = REPOSITORY / "tests" / "soak" / "walk" / "walk.py"
_N_WORKERS = 2
_POLL = 0.02  # seconds
_CLUSTER = """
import sys
from distributed import LocalCluster
with LocalCluster(n_workers=2, threads_per_worker=8, dashboard_address=":0") as cluster:
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""  # two nodes, which end with who started it


class Command:
    """One command of a user, in a session of its own."""

    def __init__(self, words: list[str], output: Path, environ: dict[str, str]) -> None:
        self.words, self.output, self.killed = words, output, False
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                words, stdout=file, stderr=file, stdin=subprocess.DEVNULL, cwd=output.parent,
                env=environ, start_new_session=True,
            )  # fmt: skip

    def lives(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def text(self) -> str:
        """What it has printed."""
        return self.output.read_text(errors="replace")


class Sweep:
    """Walks of four seeds, in a folder of their own. nodes: a Dask cluster's."""

    def __init__(self, folder: Path, launcher: str, nodes: "Nodes | None" = None) -> None:
        self.folder, self.launcher, self.nodes = folder, launcher, nodes
        self.results, self.temporary = folder / "results", folder / "tmp"
        self.sweep_dir, self.diary = self.results / "s", folder / "diary"
        self.temporary.mkdir(parents=True)
        self.diary.mkdir()
        self.commands: list[Command] = []

    def submit(self) -> Command:
        """The app's own command."""
        where = [f"hydra/launcher={self.launcher}"]
        if self.launcher == "dask":
            assert self.nodes is not None
            where.append(f"hydra.launcher.address={self.nodes.address}")
        return self._start(str(_APP), "-m", *where, *self._points())

    def start(self) -> list[Command]:
        """All that a user starts: the app's command, and after it the workers that it asks for."""
        first = self.submit()
        if self.launcher != "workers":
            return [first]
        ended = wait_until(lambda: not first.lives(), 60.0)
        return [first, *self.workers()] if ended else [first]

    def workers(self) -> list[Command]:
        """Some of `python -m experiments.work`."""
        words = ("-m", "experiments.work", str(self.sweep_dir))
        return [self._start(*words) for _ in range(_N_WORKERS)]

    def processes(self) -> list[int]:
        """All that live and were started for this sweep, by their environment at their start."""
        mark, found = os.fsencode(self.folder), []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if mark in (path / "environ").read_bytes() and alive(int(path.name)):
                    found.append(int(path.name))
        return found

    def holders(self) -> list[int]:
        """Processes that have a point now."""
        found = []
        for path in self.run_dirs():
            with suppress(OSError, LookupError, ValueError):
                pid = int((path / ".claim").read_text().split(" pid ")[1].split()[0])
                if is_claimed(path) and pid in self.processes():
                    found.append(pid)
        return found

    def run_dirs(self) -> list[Path]:
        """Of the points that have begun."""
        return [path.parent for path in self.sweep_dir.glob("*/.claim")]

    def n_done(self) -> int:
        """Points with a record that says so."""
        return sum(has_ended(path) for path in self.run_dirs())

    def n_waiting(self) -> int:
        """Points that workers are to take."""
        return len(Workers.tasks(self.sweep_dir))

    def n_started(self) -> int:
        """How often a walk has begun."""
        return sum(path.read_text().count(" started ") for path in self.diary.iterdir())

    def end(self) -> None:
        """Kills whatever is left."""
        for pid in self.processes():
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        for command in self.commands:
            command.process.wait()

    def _points(self) -> list[str]:
        seeds = ",".join(map(str, SEEDS))
        where = (f"diary={self.diary}", f"paths.results={self.results}")
        return [f"seed={seeds}", "sweep=s", *where]

    def _start(self, *words: str) -> Command:
        # the folder is no module's: by it this sweep's processes are known, those of Dask too
        path = os.pathsep.join(filter(None, (str(self.folder), os.environ.get("PYTHONPATH"))))
        environ = {**os.environ, "PYTHONPATH": path, "TMPDIR": str(self.temporary)}
        output = self.folder / f"out-{len(self.commands) + 1}.txt"
        self.commands.append(Command([sys.executable, *words], output, environ))
        return self.commands[-1]


class Nodes:
    """A Dask cluster of two nodes, as long as it is entered."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CLUSTER], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True, start_new_session=True,
        )  # fmt: skip
        assert self._process.stdout is not None
        self.address = self._process.stdout.readline().strip()
        if not self.address:
            raise RuntimeError("no Dask cluster starts here")

    def workers(self) -> list[int]:
        """Processes of its nodes."""
        tasks = Path(f"/proc/{self._process.pid}/task").glob("*/children")
        found = [int(pid) for path in tasks for pid in path.read_text().split()]
        return [p for p in found if b"spawn_main" in Path(f"/proc/{p}/cmdline").read_bytes()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def wait_until(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes to be so in that time."""
    deadline = time.monotonic() + seconds
    while not is_so():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL)
    return True
