"""Where points are trained, and the command that trains them: alone, a sweep, by two ranks."""

import multiprocessing
import multiprocessing.context
import shutil
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.sweep.many_runs import run_sweep
from experiments.sweep.one_run import run_one
from experiments.sweep.queues.local import Local
from experiments.system.claims import is_claimed
from tests.soak import diary
from tests.soak.judge import Problem, fingerprint, judge
from tests.soak.points import SWEEP, Case, Points
from tests.soak.processes import Body, Process, call, free_port

if TYPE_CHECKING:
    from tests.soak.trials import Trial

ELSEWHERE = 3  # exit code: another process has what is left
PATIENCE = 120.0  # seconds in which any command of a tiny point has to end


class Alone:
    """One point by `python -m experiments.run`, in a folder of its own. cache: of the tokens."""

    name = "alone"

    def __init__(self, folder: Path, points: Points, cases: Sequence[Case]) -> None:
        self.folder, self.points, self.cases = folder, points, tuple(cases)
        self.results, self.cache = folder / "results", points.data
        self.temporary = folder / "tmp"
        shutil.rmtree(folder, ignore_errors=True)  # of a reference that failed
        self.temporary.mkdir(parents=True)
        self.diary = folder / "diary.jsonl"
        self.run_ids = [case.run_id for case in cases]
        self.n_started = 0
        self.asked: dict[int, float] = {}  # pid -> when it was first asked to stop

    @property
    def run_dir(self) -> Path:
        """Of the first point."""
        return self.run_dirs[0]

    @property
    def run_dirs(self) -> list[Path]:
        """Of all points."""
        return [self.sweep_dir / run_id for run_id in self.run_ids]

    @property
    def sweep_dir(self) -> Path:
        """Of all of them."""
        return self.results / SWEEP

    def raws(self) -> list[dict[str, Any]]:
        """Points' configs."""
        return [c.placed(self.results, self.cache) for c in self.cases if not c.is_made]

    def command(self) -> Body:
        """What a process of start() does."""
        return call(run_one, self.raws()[0])

    def start(self, before: Body | None = None) -> Process:
        """Command in a forked process, in which before() is called first."""
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

    def expected(self) -> dict[str, Any]:
        """What undisturbed runs leave: runs, by id, and the seconds that they take together."""
        found = [
            self.points.kept(f"{c.run_id}-{c.n_ranks}", lambda c=c: self.alone(c).undisturbed())
            for c in self.cases
        ]
        runs = {run_id: run for one in found for run_id, run in one["runs"].items()}
        return {"runs": runs, "seconds": sum(one["seconds"] for one in found)}

    def alone(self, case: Case) -> "Alone":
        """One of its points, in a folder for a run that nothing disturbs."""
        return Alone(self.points.folder / f"reference-{case.run_id}", self.points, [case])

    def undisturbed(self) -> dict[str, Any]:
        """As expected(), by the command in this folder, which is removed then."""
        process = self.start()
        code = process.wait(PATIENCE)
        seconds = time.monotonic() - process.start
        if code:
            outputs = "\n".join(path.read_text() for path in self.folder.glob("out-*.txt"))
            raise RuntimeError(f"{self.cases} end with {code}: {outputs}")
        found = {**self.left(), "seconds": seconds}
        shutil.rmtree(self.folder)
        return found

    def left(self) -> dict[str, Any]:
        """What the command has left, as expected()."""
        return {
            "runs": {
                path.parent.name: _run(path.parent) for path in self.sweep_dir.glob("*/record.json")
            }
        }

    def problems(self, trial: "Trial") -> Iterator[Problem]:
        """What is not as expected."""
        entries = diary.read(self.diary)
        first = {case.run_id: case.first_step for case in self.cases}
        for run_id, run in trial.expected["runs"].items():
            files = {*trial.files, *run["files"]}
            folder = self.sweep_dir / run_id
            yield from judge(folder, run, n_done=trial.n_done, files=files)
            yield from diary.lost_work(
                entries.get(run_id, []),
                first=first.get(run_id, 0),
                trusted=trial.trusted,
                locked=trial.locked,
                asked=self.asked,
            )


def _run(run_dir: Path) -> dict[str, Any]:
    files = sorted(path.name for path in run_dir.iterdir())
    return {**fingerprint(run_dir), "files": files}


class Sweep(Alone):
    """Some points by `python -m experiments.run -m`, two at a time."""

    name = "sweep"

    def command(self) -> Body:
        """Controller, whose workers are forked from itself."""

        def run() -> None:
            multiprocessing.get_context = lambda *_: _Fork()  # no server that imports for 10 s
            self.run()

        return call(run)

    def run(self) -> None:
        """What the controller does."""
        run_sweep(self.raws(), Local(n_workers=2))


class _Fork(multiprocessing.context.ForkContext):
    def set_forkserver_preload(self, modules: Sequence[str]) -> None:
        """All is imported."""


class Ranks(Alone):
    """A point that two processes train together, started as torchrun starts them."""

    name = "ranks"

    def command(self) -> Body:
        """The launcher. Its children are the ranks."""
        return lambda: _launch(self)

    def alone(self, case: Case) -> Alone:
        """On as many ranks."""
        return Ranks(self.points.folder / f"reference-{case.run_id}-ranks", self.points, [case])


def _launch(stage: Ranks) -> None:
    """Starts the ranks and waits for them; where one fails it ends the other, as launchers do."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the ranks get their own
    port, n = free_port(), stage.cases[0].n_ranks
    body = call(run_one, stage.raws()[0])
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
