"""Soak of own apps by the launchers local, workers and dask: `make soak ONLY=apps`.

A trial is named apps-N, apps-LAUNCHER-N, apps-FAULT-N or apps-LAUNCHER-FAULT-N. Its processes are
real ones: a command is killed, told to end or given twice, and given again until nothing is left.
"""

import importlib.util
import os
import random
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.soak.app_judge import fingerprint, judge
from tests.soak.app_sweeps import LAUNCHERS, SEEDS, Command, Nodes, Sweep, wait_until
from tests.soak.judge import HANG, LEFT_OVER, LOST, WRONG, Problem
from tests.soak.processes import HangError
from tests.soak.storage_faults import mount, mount_tmpfs
from tests.soak.trials import Outcome, last_line

NAME = "apps"
_TURNS = 6  # of the same command after the last fault, by which all must be done
_PATIENCE = 120.0  # seconds in which a command has to end
_SOON = 20.0  # seconds in which one has to end that is told to
_CODES = {0, 3, 130}  # of commands that may leave points
_MISTAKES = Path(__file__).parent / "app_mistakes"
Inject = Callable[["AppTrial"], None]


class AppTrial:
    """What is done to a sweep of walks, and what came of it."""

    def __init__(self, name: str, sweep: Sweep, expected: dict[str, Any], rng: random.Random):
        self.sweep, self.expected, self.rng = sweep, expected, rng
        self.outcome = Outcome(name=name, folder=str(sweep.folder))
        self.killed = False  # some process was, or had no room: it may have said less than it did
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

    def run(self, faults: list[Inject]) -> Outcome:
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
            wait_until(lambda: self.sweep.n_started() > n or not _living(commands), 20.0)
            seconds = self.rng.uniform(0.0, 1.5)
        else:
            seconds = self.rng.uniform(0.0, 4.0)
        wait_until(lambda: not _living(commands), seconds)

    def end(self, commands: list[Command]) -> list[int]:
        """Exit codes of commands, which must be right."""
        ended = wait_until(lambda: not _living(commands), _PATIENCE)
        if not ended:
            raise HangError(f"{_living(commands)[0].words} had not ended after {_PATIENCE:.0f} s")
        codes = []
        for command in commands:
            code, said = command.process.returncode, last_line(command.output)
            codes.append(code)
            if "Traceback" in command.text():
                self.wrong(f"{command.output.name} has a traceback: {said}")
            if code not in _CODES and not command.killed and not self.killed:
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
        if not wait_until(lambda: not self.sweep.processes(), _PATIENCE):
            raise HangError(f"processes stay for {_PATIENCE:.0f} s: {self.sweep.processes()}")


def _living(commands: list[Command]) -> list[Command]:
    return [command for command in commands if command.lives()]


def kill_command(trial: AppTrial) -> None:
    """kill -9 of the command, or of one of the workers that it asked for."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    if living := _living(commands):
        _kill(trial, living)
    trial.end(commands)


def kill_point(trial: AppTrial) -> None:
    """kill -9 of a process that has a point."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    if holders := trial.sweep.holders():
        trial.killed = True
        pid = trial.rng.choice(holders)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            trial.injected("kill -9 of a point", str(pid))
    trial.end(commands)


def kill_all(trial: AppTrial) -> None:
    """kill -9 of all that the sweep has started."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    if _living(commands):
        trial.killed = True
        trial.sweep.end()
        trial.injected("kill -9 of all", f"{trial.sweep.n_done()} walks were done")
    for command in commands:
        command.killed = True
    trial.end(commands)


def term(trial: AppTrial) -> None:
    """TERM to the command, or to one of the workers that it asked for."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    _tell_to_end(trial, commands)
    trial.end(commands)


def two(trial: AppTrial) -> None:
    """The same command twice at once; one of them may be told to end, or be killed."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    others = trial.sweep.start() if _living(commands) else []
    if _living(commands) and others:
        trial.injected("two commands", others[0].output.name)
    both, then = [*commands, *others], trial.rng.choice(("", "TERM", "kill"))
    if then:
        trial.wait_some_time(both)
    if then == "TERM":
        _tell_to_end(trial, both)
    elif then == "kill" and (living := _living(both)):
        _kill(trial, living)
    trial.end(both)


def full_disk(trial: AppTrial) -> None:
    """The results are on a file system that fills up, and is enlarged after that."""
    results = trial.sweep.results
    if not mount_tmpfs(trial, results):
        return
    page, early = os.sysconf("SC_PAGE_SIZE"), trial.rng.random() < 0.3
    room = int(2 ** trial.rng.uniform(0.0, 11.0 if early else 6.0))

    def fill() -> None:
        found = os.statvfs(results)
        size = (found.f_blocks - found.f_bfree) * found.f_frsize + room * page
        mount("-o", f"remount,size={size}", str(results))

    if early:
        fill()
    commands = trial.sweep.start()
    if not early:
        trial.wait_some_time(commands)
        fill()
    trial.killed, before = True, trial.killed
    codes = trial.end(commands)
    texts = [command.text() for command in commands]
    texts += [p.read_text(errors="replace") for p in results.rglob("record.json")]
    mount("-o", "remount,size=512m", str(results))
    if any("no space left" in text.lower() for text in texts):
        trial.injected("full disk", f"{4 * room} KB left -> {codes}")
    elif set(codes) - _CODES:
        trial.injected("full disk", f"{4 * room} KB left -> {codes}")
        trial.wrong(f"a full disk, and no reason: {last_line(commands[-1].output)}")
    else:
        trial.killed = before


def kill_node(trial: AppTrial) -> None:
    """kill -9 of a worker of Dask, which Dask starts again."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    if _living(commands) and trial.sweep.nodes is not None and trial.sweep.launcher == "dask":
        pid = trial.rng.choice(trial.sweep.nodes.workers())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            trial.injected("kill -9 of a node's worker", str(pid))
    trial.end(commands)


def _kill(trial: AppTrial, living: list[Command]) -> None:
    victim = trial.rng.choice(living)
    victim.killed = trial.killed = True
    victim.process.kill()
    trial.injected("kill -9 of a command", victim.output.name)


def _tell_to_end(trial: AppTrial, commands: list[Command]) -> None:
    if living := _living(commands):
        victim = trial.rng.choice(living)
        victim.process.terminate()
        trial.injected("TERM to a command", victim.output.name)
        if not wait_until(lambda: not victim.lives(), _SOON):
            trial.wrong(f"{victim.output.name} had not ended {_SOON:.0f} s after TERM")
        victim.killed = victim.process.returncode == -signal.SIGTERM  # before it could listen


FAULTS: dict[str, Inject] = {
    one.__name__: one
    for one in (kill_command, kill_point, kill_all, kill_node, term, two, full_disk)
}


class Apps:
    """Trials of a session. One undisturbed sweep says what comes of them all. mistake: of
    app_mistakes, put into the product after that.
    """

    def __init__(self, folder: Path, mistake: str = "") -> None:
        sweep = Sweep(folder, "local")
        (command,) = sweep.start()
        code = command.process.wait(_PATIENCE)
        self.expected = fingerprint(sweep)
        if code or len(self.expected) != len(SEEDS):
            raise RuntimeError(f"an undisturbed sweep ends with {code}: {command.text()}")
        if mistake:
            path = filter(None, (str(_MISTAKES), os.environ.get("PYTHONPATH")))
            os.environ |= {"SOAK_MISTAKE": mistake, "PYTHONPATH": os.pathsep.join(path)}
        self.nodes = Nodes() if importlib.util.find_spec("distributed") else None

    def trial(self, name: str, seed: int, folder: Path) -> Outcome:
        """Some faults, drawn from the seed and the name alone."""
        rng = random.Random(f"{seed} {name}")
        words = name.split("-")
        known = [one for one in LAUNCHERS if one != "dask" or self.nodes is not None]
        asked = ["dask"] if "kill_node" in words else [one for one in LAUNCHERS if one in words]
        launcher = rng.choice([one for one in asked if one in known] or known)
        names = [one for one in FAULTS if launcher == "dask" or one != "kill_node"]
        only = [one for one in names if one in words]
        names = only or rng.choices(names, k=rng.choice((1, 1, 2)))
        trial = AppTrial(name, Sweep(folder, launcher, self.nodes), self.expected, rng)
        trial.outcome.what = f"walks by {launcher} | {', '.join(names)}"
        return trial.run([FAULTS[one] for one in names])


@contextmanager
def apps(folder: Path, mistake: str = "") -> Iterator[Apps]:
    """As long as its trials run."""
    made = Apps(folder, mistake)
    try:
        yield made
    finally:
        if made.nodes is not None:
            made.nodes.close()


def parts() -> list[str]:
    """What a trial's name may begin with."""
    both = [f"{one}-{fault}" for one in LAUNCHERS for fault in FAULTS]
    return [NAME, *(f"{NAME}-{one}" for one in (*LAUNCHERS, *FAULTS, *both))]


def mistakes() -> list[str]:
    """Names of those that can be put into the product."""
    from tests.soak.app_mistakes.sitecustomize import MISTAKES

    return list(MISTAKES)
