"""Faults of a sweep of an own app, at some moment of it: each starts the command and ends it."""

import os
import signal
from collections.abc import Callable
from contextlib import suppress

from tests.soak.app_sweeps import Command, wait_until
from tests.soak.app_trial import CODES, AppTrial, living
from tests.soak.storage_faults import mount, mount_tmpfs
from tests.soak.trials import last_line

_SOON = 20.0  # seconds in which a command has to end that is told to


def kill_command(trial: AppTrial) -> None:
    """kill -9 of the command, or of one of the workers that it asked for."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    if them := living(commands):
        _kill(trial, them)
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
    if living(commands):
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
    others = trial.sweep.start() if living(commands) else []
    if living(commands) and others:
        trial.injected("two commands", others[0].output.name)
    both, then = [*commands, *others], trial.rng.choice(("", "TERM", "kill"))
    if then:
        trial.wait_some_time(both)
    if then == "TERM":
        _tell_to_end(trial, both)
    elif then == "kill" and (them := living(both)):
        _kill(trial, them)
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
    trial.is_full, before = True, trial.killed
    trial.killed = True
    codes = trial.end(commands)
    trial.is_full = False
    texts = [command.text() for command in commands]
    texts += [p.read_text(errors="replace") for p in results.rglob("record.json")]
    mount("-o", "remount,size=512m", str(results))
    if any("no space left" in text.lower() for text in texts):
        trial.injected("full disk", f"{4 * room} KB left -> {codes}")
    elif set(codes) - CODES:
        trial.injected("full disk", f"{4 * room} KB left -> {codes}")
        trial.wrong(f"a full disk, and no reason: {last_line(commands[-1].output)}")
    else:
        trial.killed = before


def kill_node(trial: AppTrial) -> None:
    """kill -9 of a worker of Dask, which Dask starts again."""
    commands = trial.sweep.start()
    trial.wait_some_time(commands)
    if living(commands) and trial.sweep.nodes is not None and trial.sweep.launcher == "dask":
        pid = trial.rng.choice(trial.sweep.nodes.workers())
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
            trial.injected("kill -9 of a node's worker", str(pid))
    trial.end(commands)


def _kill(trial: AppTrial, them: list[Command]) -> None:
    victim = trial.rng.choice(them)
    victim.killed = trial.killed = True
    victim.process.kill()
    trial.injected("kill -9 of a command", victim.output.name)


def _tell_to_end(trial: AppTrial, commands: list[Command]) -> None:
    if them := living(commands):
        victim = trial.rng.choice(them)
        victim.process.terminate()
        trial.injected("TERM to a command", victim.output.name)
        if not wait_until(lambda: not victim.lives(), _SOON):
            trial.wrong(f"{victim.output.name} had not ended {_SOON:.0f} s after TERM")
        victim.killed = victim.process.returncode == -signal.SIGTERM  # before it could listen


FAULTS: dict[str, Callable[[AppTrial], None]] = {
    one.__name__: one
    for one in (kill_command, kill_point, kill_all, kill_node, term, two, full_disk)
}
