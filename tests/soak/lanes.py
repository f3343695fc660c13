"""Trials side by side, each in a forked process with a folder of its own."""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.soak.judge import HANG, WRONG, Problem
from tests.soak.processes import Process
from tests.soak.trials import Outcome

_LIMIT = 1200.0  # seconds of one trial, above all the limits inside


@dataclass(frozen=True, kw_only=True)
class Job:
    """A trial by name; run(folder) carries it out."""

    name: str
    run: Callable[[Path], Outcome]


def run_all(jobs: Iterable[Job], folder: Path, n_lanes: int) -> Iterator[Outcome]:
    """Outcomes as they come, n_lanes trials at a time. jobs is read lazily, so that it may end
    when its time is up. A trial without a problem leaves no folder.
    """
    waiting, running = iter(jobs), []
    more = True
    while more or running:
        while more and len(running) < n_lanes:
            job = next(waiting, None)
            more = job is not None
            if job is not None:
                running.append(_start(job, folder))
        ended = [lane for lane in running if _has_ended(lane[1])]
        for lane in ended:
            running.remove(lane)
            yield _outcome(*lane)
        if not ended:
            time.sleep(0.01)


def _start(job: Job, folder: Path) -> tuple[Job, Process, Path]:
    own = folder / job.name.replace(":", "-")
    own.mkdir(parents=True)

    def body() -> None:
        (own / "outcome.json").write_text(job.run(own / "trial").dumps(), encoding="utf-8")

    return job, Process(body, own / "trial.txt"), own


def _has_ended(process: Process) -> bool:
    if time.monotonic() - process.start > _LIMIT:
        process.kill_session()
    return process.poll() is not None


def _outcome(job: Job, process: Process, own: Path) -> Outcome:
    path = own / "outcome.json"
    if not path.exists():
        kind = HANG if process.code == -9 else WRONG
        text = f"the trial ended with {process.code}: {(own / 'trial.txt').read_text()}"
        return Outcome(name=job.name, folder=str(own), problems=[Problem(kind=kind, text=text)])
    outcome = Outcome.loads(path.read_text(encoding="utf-8"))
    if not outcome.problems:
        shutil.rmtree(own, ignore_errors=True)
    return outcome
