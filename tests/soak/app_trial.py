"""One trial of own apps: a sweep of walks is disturbed, and the same command finishes it."""

import random
import traceback
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from tests.soak.app_judge import judge
from tests.soak.app_sweeps import SEEDS, Command, Sweep, wait_until
from tests.soak.judge import HANG, LEFT_OVER, LOST, WRONG, Problem
from tests.soak.processes import HangError
from tests.soak.trials import Outcome, last_line

_TURNS = 6  # of the same command after the last fault, by which all must be done
PATIENCE = 120.0  # seconds in which a command has to end
# Python 3.11 leaves a compiled file cut short on a full disk, and reads it (its issue 126606); the
# next command removes it
_CUT = "EOFError: marshal data too short"
CODES = {0, 3, 130}  # of commands that may leave points


def living(commands: list[Command]) -> list[Command]:
    """Those that have not ended."""
    return [command for command in commands if command.lives()]


class AppTrial:
    """What is done to a sweep of walks, and what came of it."""

    def __init__(self, name: str, sweep: Sweep, expected: dict[str, Any], rng: random.Random):
        self.sweep, self.expected, self.rng = sweep, expected, rng
        self.outcome = Outcome(name=name, folder=str(sweep.folder))
        self.killed = False  # some process was, or had no room: it may have said less than it did
        self.is_full = False  # its disk, now
        self.cleanups: list[Callable[[], None]] = []

    def wrong(self, text: str, kind: str = WRONG) -> None:
        """Notes what the program must not do."""
        self.outcome.problems.append(Problem(kind=kind, text=text))

    def injected(self, kind: str, what: str) -> None:
        """Notes a fault that has really happened."""
        self.outcome.faults.append((f"app {self.sweep.launcher}: {kind}", what))

    def skip(self, kind: str, why: str) -> None:
        """Notes that a fault can't be had on this machine."""
        self.outcome.skipped[kind] = why

    def run(self, faults: list[Callable[["AppTrial"], None]]) -> Outcome:
        """The faults one after another, then the same command; what goes wrong is noted."""
        try:
            for fault in faults:
                fault(self)
                self.settle()
            self._finish()
            self.outcome.problems += judge(self.sweep, self.expected, forgiven=self.killed)
        except HangError as error:
            self.wrong(str(error), HANG)
        except Exception:
            self.wrong("in the harness: " + traceback.format_exc())
        finally:
            self.sweep.end()
            for cleanup in self.cleanups:
                with suppress(OSError):
                    cleanup()
        return self.outcome

    def wait_some_time(self, commands: list[Command]) -> None:
        """Until some moment between a command's start and the sweep's end."""
        n = self.sweep.n_started()
        if self.rng.random() < 0.7:  # a walk has begun
            wait_until(lambda: self.sweep.n_started() > n or not living(commands), 20.0)
            seconds = self.rng.uniform(0.0, 1.5)
        else:
            seconds = self.rng.uniform(0.0, 4.0)
        wait_until(lambda: not living(commands), seconds)

    def end(self, commands: list[Command]) -> list[int]:
        """Exit codes of commands, which must be right."""
        ended = wait_until(lambda: not living(commands), PATIENCE)
        if not ended:
            raise HangError(f"{living(commands)[0].words} had not ended after {PATIENCE:.0f} s")
        codes = []
        for command in commands:
            code, said = command.process.returncode, last_line(command.output)
            codes.append(code)
            if "Traceback" in command.text() and not (self.is_full and _CUT in command.text()):
                self.wrong(f"{command.output.name} has a traceback: {said}")
            if code not in CODES and not command.killed and not self.is_full:
                self.wrong(f"{command.output.name}: exit code {code}, {said}")
            if code == 0 and "-m" in command.words and self.sweep.launcher != "workers":
                self._check_done(command.output.name)
        return codes

    def _check_done(self, name: str) -> None:
        if (n := self.sweep.n_done()) < len(SEEDS):
            self.wrong(f"{name}: exit code 0, and {n} of {len(SEEDS)} walks are done")

    def _finish(self) -> None:
        """Same command until there is nothing left to do, and once more, which does nothing."""
        history = []
        for _ in range(_TURNS):
            history.append(self.end(self.sweep.start()))
            self.settle()
            if not any(history[-1]):
                break
        else:
            last = last_line(self.sweep.commands[-1].output)
            self.wrong(f"the same command ended with {history}: {last}", LOST)
        self._check_done("the last command")
        n = self.sweep.n_started()
        codes = self.end(self.sweep.start())
        if any(codes) or self.sweep.n_started() > n:
            self.wrong(f"all was done, and the same command ended with {codes}, or began a walk")
        self.settle()
        left = sorted(path.name for path in self.sweep.temporary.iterdir())
        if left and not self.killed:
            self.wrong(f"in TMPDIR: {', '.join(left[:4])}", LEFT_OVER)

    def settle(self) -> None:
        """Waits for processes that outlive their command."""
        if not wait_until(lambda: not self.sweep.processes(), PATIENCE):
            raise HangError(f"processes stay for {PATIENCE:.0f} s: {self.sweep.processes()}")
