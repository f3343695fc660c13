"""Where points are trained, and the command that trains them: alone, a sweep, by two ranks."""

import multiprocessing
import multiprocessing.context
import shutil
import signal
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.sweep import local
from experiments.system.claims import is_claimed
from tests.soak import diary
from tests.soak.judge import fingerprint
from tests.soak.points import SWEEP, Case, Points
from tests.soak.processes import Body, Process, call, free_port

ELSEWHERE = 3  # exit code: another process has what is left
PATIENCE = 120.0  # seconds in which any command of a tiny point has to end


class Alone:
    """One point by `python -m experiments.run`, in a folder of its own. cache: of the tokens."""

    name = "alone"

    def __init__(self, folder: Path, points: Points, cases: Sequence[Case]) -> None:
        self.folder, self.points, self.cases = folder, points, tuple(cases)
        self.results, self.cache = folder / "results", points.data
        self.temporary = folder / "tmp"
        self.temporary.mkdir(parents=True)
        self.diary = folder / "diary.jsonl"
        self.n_started = 0

    @property
    def run_dir(self) -> Path:
        """Of the first point."""
        return self.cases[0].run_dir(self.results)

    @property
    def run_dirs(self) -> list[Path]:
        """Of all points."""
        return [case.run_dir(self.results) for case in self.cases]

    @property
    def sweep_dir(self) -> Path:
        """Of all of them."""
        return self.results / SWEEP

    def raws(self) -> list[dict[str, Any]]:
        """The points' configs."""
        return [case.placed(self.results, self.cache) for case in self.cases]

    def command(self) -> Body:
        """What a process of start() does."""
        return call(local.run_one, self.raws()[0])

    def start(self, before: Body | None = None) -> Process:
        """The command in a forked process, in which before() is called first."""
        return self.fork(self.command(), before)

    def fork(
        self, body: Body, before: Body | None = None, environ: Mapping[str, str] | None = None
    ) -> Process:
        """A forked process whose output goes to out-<n>.txt."""

        def whole() -> None:
            if before is not None:
                before()
            diary.keep(self.diary)
            body()

        self.n_started += 1
        output = self.folder / f"out-{self.n_started}.txt"
        return Process(whole, output, {"TMPDIR": str(self.temporary), **(environ or {})})

    def is_done(self) -> bool:
        """Whether each point has a record and no process."""
        return all(
            (folder / "record.json").exists() and not is_claimed(folder) for folder in self.run_dirs
        )

    def is_claimed(self) -> bool:
        """Whether a process has any of the points."""
        return any(is_claimed(folder) for folder in self.run_dirs)

    def wait_for_claims(self, seconds: float = PATIENCE) -> bool:
        """Waits until no process has any of the points; False if one still has in the end."""
        deadline = time.monotonic() + seconds
        while self.is_claimed():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


class Sweep(Alone):
    """Some points by `python -m experiments.run -m`, two at a time."""

    name = "sweep"

    def command(self) -> Body:
        """The controller, whose workers are forked from itself."""

        def run() -> None:
            multiprocessing.get_context = lambda *_: _Fork()  # no server that imports for 10 s
            local.run_sweep(self.raws(), 2)

        return call(run)


class _Fork(multiprocessing.context.ForkContext):
    def set_forkserver_preload(self, modules: Sequence[str]) -> None:
        """All is imported."""


class Ranks(Alone):
    """A point that two processes train together, started as torchrun starts them."""

    name = "ranks"

    def command(self) -> Body:
        """The launcher. Its children are the ranks."""
        return lambda: _launch(self)


def _launch(stage: Ranks) -> None:
    """Starts the ranks and waits for them; where one fails it ends the other, as launchers do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the ranks get their own
    port, n = free_port(), stage.cases[0].n_ranks
    body = call(local.run_one, stage.raws()[0])
    ranks = []
    for rank in range(n):
        environ = {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "ROLE_RANK": str(rank),
            "WORLD_SIZE": str(n), "LOCAL_WORLD_SIZE": str(n), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "soak",
        }  # fmt: skip
        stage.n_started += 10  # outputs beside the launcher's
        ranks.append(stage.fork(body, environ=environ))
    while None in [rank.poll() for rank in ranks]:
        time.sleep(0.005)
        if any(rank.code for rank in ranks):
            for rank in ranks:
                for number in (signal.SIGTERM, signal.SIGKILL):
                    if rank.lives_for(10.0):
                        rank.send(number)
    raise SystemExit(next((rank.code % 256 for rank in ranks if rank.code), 0))


STAGES = {kind.name: kind for kind in (Alone, Sweep, Ranks)}


def undisturbed(points: Points, case: Case) -> dict[str, Any]:
    """The fingerprint of a run that nothing disturbs, and the seconds that it took."""
    folder = points.folder / f"reference-{case.run_id}-{case.n_ranks}"
    shutil.rmtree(folder, ignore_errors=True)
    stage = (Ranks if case.n_ranks > 1 else Alone)(folder, points, [case])
    process = stage.start()
    code = process.wait(PATIENCE)
    seconds = time.monotonic() - process.start
    if code:
        outputs = "\n".join(path.read_text() for path in folder.glob("out-*.txt"))
        raise RuntimeError(f"{case.name} ends with {code}: {outputs}")
    found = {**fingerprint(stage.run_dir), "seconds": seconds}
    shutil.rmtree(folder)
    return found
