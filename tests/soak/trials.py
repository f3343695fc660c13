"""One trial: points are disturbed, and the same command then has to finish them to the bit."""

import json
import random
import traceback
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from tests.soak.judge import HANG, LEFT_OVER, LOST, WRONG, Problem
from tests.soak.processes import HangError
from tests.soak.stage import ELSEWHERE, PATIENCE, Alone

_TURNS = 3  # of the same command after the last fault, by which all must be done


@dataclass(kw_only=True)
class Outcome:
    """What became of a trial. faults: kind and what happened, of those that were injected."""

    name: str
    what: str = ""
    faults: list[tuple[str, str]] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    skipped: dict[str, str] = field(default_factory=dict)  # kind -> why it is not available here
    folder: str = ""

    def dumps(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self))

    @staticmethod
    def loads(text: str) -> "Outcome":
        """From JSON."""
        values = json.loads(text)
        values["faults"] = [(kind, what) for kind, what in values["faults"]]
        values["problems"] = [Problem(**problem) for problem in values["problems"]]
        return Outcome(**values)


class Trial:
    """What is done to the points of a stage, and what came of it."""

    def __init__(self, name: str, stage: Alone, rng: random.Random) -> None:
        self.stage, self.rng = stage, rng
        self.outcome = Outcome(name=name, folder=str(stage.folder))
        self.outcome.what = f"{stage.name}: {', '.join(case.name for case in stage.cases)}"
        self.n_done = 1  # how often a point may be done
        self.files: set[str] = set()  # that may stay
        self.trusted = True  # no checkpoint was damaged, so that no saved step is taken again
        self.locked = True  # two processes can't have one run
        self.leased = False  # a host that was killed may have left its lease
        self.cleanups: list[Callable[[], None]] = []
        self.expected = stage.expected()
        self.seconds = self.expected["seconds"]
        stage.run_ids = list(self.expected["runs"])

    def some_time(self) -> float:
        """A moment of a run, or just after its end: seconds."""
        return self.rng.uniform(0.0, 1.05 * self.seconds)

    def injected(self, kind: str, what: str) -> None:
        """Notes a fault that has really happened."""
        self.outcome.faults.append((kind, what))

    def skip(self, kind: str, why: str) -> None:
        """Notes that a fault can't be had on this machine."""
        self.outcome.skipped[kind] = why

    def wrong(self, text: str, kind: str = WRONG) -> None:
        """Notes what the program must not do."""
        self.outcome.problems.append(Problem(kind=kind, text=text))

    def run(self, inject: Callable[["Trial"], None]) -> Outcome:
        """inject(self), then the same command; whatever goes wrong is in the outcome."""
        try:
            inject(self)
            self._finish()
            self._judge()
        except HangError as error:
            self.wrong(str(error), HANG)
        except Exception:
            self.wrong("in the harness: " + traceback.format_exc())
        finally:
            for cleanup in reversed(self.cleanups):
                with suppress(OSError):
                    cleanup()
        return self.outcome

    def _finish(self) -> None:
        """Same command until there is nothing left to do."""
        codes = []
        for _ in range(_TURNS):
            process = self.stage.start()
            codes.append(process.wait(PATIENCE))
            if codes[-1] == 0 and self.stage.is_done():
                break
            if not self.stage.wait_for_claims():
                raise HangError(f"a process keeps its claim for {PATIENCE:.0f} s")
        else:
            text = f"the same command ended with {codes}: {last_line(process.output)}"
            self.wrong(text, LOST)
        if set(codes) - {0, ELSEWHERE}:
            self.wrong(f"the same command ended with {codes} before it was done")

    def _judge(self) -> None:
        self.outcome.problems += self.stage.problems(self)
        left = sorted(path.name for path in self.stage.temporary.iterdir())
        if left:
            self.wrong(f"in TMPDIR: {', '.join(left[:4])}", LEFT_OVER)


def last_line(path: Path) -> str:
    """Of a file of output, which a process lacks that ended within milliseconds."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    lines = text.strip().splitlines()
    return lines[-1] if lines else "(no output)"
