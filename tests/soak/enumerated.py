"""Faults at the n-th file operation, for every n of a first run, a resumed one and an ending."""

import os
import random
import shutil
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.soak.operations import DONE, KINDS, left_of, strike, watch
from tests.soak.points import Points
from tests.soak.power import LOSSES
from tests.soak.processes import Body
from tests.soak.stage import PATIENCE, Alone
from tests.soak.trials import Outcome, Trial, last_line

PHASES = ("first", "resume", "ending")
N_STEPS = 5


@dataclass(frozen=True, kw_only=True)
class Spot:
    """A fault of a kind at the n-th operation of a phase. Its name is what ONLY= takes."""

    model: str
    phase: str
    n: int
    kind: str

    @property
    def name(self) -> str:
        """first:17:kill:peer."""
        return f"{self.phase}:{self.n}:{self.kind}:{self.model}"

    @staticmethod
    def parse(name: str) -> "Spot":
        """From its name. Raises ValueError if it is none."""
        phase, n, kind, model = name.split(":")
        return Spot(model=model, phase=phase, n=int(n), kind=kind)


class Enumeration:
    """All spots of some models, and the state of a folder in which each phase begins.

    folder: for those states, made here.
    """

    def __init__(self, points: Points, folder: Path, models: Sequence[str]) -> None:
        self.points, self.folder = points, folder
        self.operations = {model: self._prepare(model) for model in models}

    def spots(self, kinds: Sequence[str] = KINDS, turn: int | None = None) -> Iterator[Spot]:
        """Each; torn and short writes where a file is opened, losses of power after the end too.
        turn: one kind an operation, and the next kind at the next, from that one on.
        """
        for model, phases in self.operations.items():
            for phase, operations in phases.items():
                for n, operation in enumerate((*operations, "end"), start=1):
                    usable = [kind for kind in kinds if _is_usable(kind, operation)]
                    if turn is not None and usable:
                        usable = [usable[(turn + n) % len(usable)]]
                    for kind in usable:
                        yield Spot(model=model, phase=phase, n=n, kind=kind)

    def run(self, spot: Spot, folder: Path, rng: random.Random) -> Outcome:
        """Trial of a spot."""
        stage = self._stage(folder, spot.model)
        begin = self.folder / spot.model / spot.phase
        if begin.exists():
            shutil.copytree(begin, stage.results)
        trial = Trial(spot.name, stage, rng)
        return trial.run(lambda trial: strike_once(trial, spot.n, spot.kind))

    def _stage(self, folder: Path, model: str) -> Alone:
        return Alone(folder, self.points, [self.points.case(model, 0, N_STEPS, minutes=0.0)])

    def _prepare(self, model: str) -> dict[str, list[str]]:
        """Operations of each phase. Leaves the folders that a resume and an ending find."""
        found = {"first": self._operations(model, "first")}
        steps = [n for n, op in enumerate(found["first"], 1) if op == "open history.csv"]
        ends = {
            "resume": steps[N_STEPS // 2],  # killed there, before a row
            "ending": found["first"].index("rename record.json") + 1,
        }
        for phase, n in ends.items():
            stage = self._stage(self.folder / model / f"make-{phase}", model)
            reading, writing = os.pipe()
            process = stage.start(_striking(stage.results, n, "kill", 0, writing))
            os.close(writing)
            os.close(reading)
            assert process.wait(PATIENCE) == -signal.SIGKILL, last_line(process.output)
            stage.results.rename(self.folder / model / phase)
            found[phase] = self._operations(model, phase)
        return found

    def _operations(self, model: str, phase: str) -> list[str]:
        """What the undisturbed run of a phase does, in order."""
        stage = self._stage(self.folder / model / f"count-{phase}", model)
        begin = self.folder / model / phase
        if begin.exists():
            shutil.copytree(begin, stage.results)
        log = stage.folder / "operations.txt"

        def before() -> None:
            file = log.open("w", encoding="utf-8", buffering=1)
            watch(stage.results, lambda n, what, path, flags: print(what, path.name, file=file))

        process = stage.start(before)
        assert process.wait(PATIENCE) == 0, last_line(process.output)
        return log.read_text().splitlines()


def _is_usable(kind: str, operation: str) -> bool:
    if kind in ("torn", "short"):
        return operation.startswith("open")
    return kind in LOSSES or operation != "end"


def strike_once(trial: Trial, n: int, kind: str) -> None:
    """One attempt with a fault at its n-th operation, noted if it really was one."""
    reading, writing = os.pipe()
    cut = trial.rng.choice((0, 1, trial.rng.randrange(2, 40)))
    process = trial.stage.start(_striking(trial.stage.results, n, kind, cut, writing))
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        what = pipe.read().decode()  # until the process ends
    code = process.wait(PATIENCE)
    output = process.output.read_text(encoding="utf-8", errors="replace")
    happened = {
        "kill": code == -signal.SIGKILL,
        "torn": code == -signal.SIGXFSZ,
        "short": code != 0 or "File too large" in output,
    }
    if kind in LOSSES:
        happened[kind] = code == -signal.SIGKILL
        _take_what_is_left(trial.stage)
    if what and happened.get(kind, True):
        name = f"loss of power: {kind}" if kind in LOSSES else f"{kind} at an operation"
        trial.injected(name, f"{n} {what} -> {code}")
        if code == 0 and kind in ("TERM", "USR1") and not what.endswith(DONE):
            trial.wrong(f"{kind} at {what}: it went on to its end")


def _take_what_is_left(stage: Alone) -> None:
    """In place of the results, which may be a mounted disk; /tmp is empty after a start."""
    left = left_of(stage.results)
    for folder in (stage.results, stage.temporary):
        for path in folder.iterdir() if left.exists() else ():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    if left.exists():
        shutil.copytree(left, stage.results, dirs_exist_ok=True)
        shutil.rmtree(left)


def _striking(folder: Path, n: int, kind: str, cut: int, pipe: int) -> Body:
    return lambda: strike(folder, n, kind, cut, pipe)
