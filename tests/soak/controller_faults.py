"""Kills and signals of a local sweep: its controller, its workers, all of them; two at once."""

import os
import signal
import time
from contextlib import suppress

from tests.soak.faults import fault
from tests.soak.processes import Process
from tests.soak.stage import PATIENCE
from tests.soak.trials import Trial, last_line

_SWEEPS = ("sweep", "branches", "search")


@fault("controller kill -9", "controller", *_SWEEPS, weight=3)
def kill_controller(trial: Trial) -> None:
    """Its workers go on, and the next command takes over what they leave."""
    process, moment = _after_a_while(trial)
    process.send(signal.SIGKILL)
    if process.wait(PATIENCE) == -signal.SIGKILL:
        trial.injected("controller kill -9", f"after {moment:.3f} s")


@fault("worker kill -9", "controller", *_SWEEPS, weight=3)
def kill_worker(trial: Trial) -> None:
    """One of two; the sweep tries it again, or says that it failed."""
    process, moment = _after_a_while(trial)
    if (pid := _some_worker(trial, process)) is None:
        process.wait(PATIENCE)
        return
    os.kill(pid, signal.SIGKILL)
    code = process.wait(PATIENCE)
    trial.injected("worker kill -9", f"after {moment:.3f} s -> {code}")
    if code not in (0, 1):
        trial.wrong(f"a worker was killed: exit code {code}, {last_line(process.output)}")


@fault("controller and workers kill -9", "controller", *_SWEEPS, weight=2)
def kill_all(trial: Trial) -> None:
    """As a node that is lost."""
    process, moment = _after_a_while(trial)
    if process.poll() is None:
        process.kill_session()
        if process.code == -signal.SIGKILL:
            trial.injected("controller and workers kill -9", f"after {moment:.3f} s")


@fault("controller signal", "controller", *_SWEEPS, weight=3)
def signal_controller(trial: Trial) -> None:
    """Once or twice, to it alone or to its whole group, as Ctrl-C does."""
    process, _ = _after_a_while(trial)
    sent = []
    group = trial.rng.random() < 0.5
    for _ in range(trial.rng.choice((1, 1, 2))):
        name = trial.rng.choice(("TERM", "INT"))
        if process.poll() is not None:
            break
        with suppress(ProcessLookupError):
            (os.killpg if group else os.kill)(process.pid, signal.Signals[f"SIG{name}"])
            sent.append(name)
        process.lives_for(trial.rng.uniform(0.0, 0.2))
    code = process.wait(PATIENCE)
    if sent and code:
        to = "the group" if group else "it"
        trial.injected("controller signal", f"{'+'.join(sent)} to {to} -> {code}")
        if "Traceback" in process.output.read_text(errors="replace"):
            trial.wrong(f"{'+'.join(sent)} to {to} ended with a traceback")


@fault("two controllers", "controller", *_SWEEPS, weight=2)
def two_controllers(trial: Trial) -> None:
    """Same command twice at once, or nearly."""
    first = trial.stage.start()
    first.lives_for(trial.rng.choice((0.0, 0.1, trial.some_time())))
    second = trial.stage.start()
    both = first.poll() is None
    killed = trial.rng.random() < 0.3
    if killed:
        second.lives_for(trial.some_time())
        killed = first.send(signal.SIGKILL)
    codes = (first.wait(PATIENCE), second.wait(PATIENCE))
    if both:
        trial.injected("two controllers", f"-> {codes}")
    if killed and codes[0] == -signal.SIGKILL:
        trial.injected("controller kill -9", "one of two")


@fault("controller stopped", "controller", *_SWEEPS)
def stop_controller(trial: Trial) -> None:
    """And continued, after its workers have ended or not."""
    process, moment = _after_a_while(trial)
    if process.send(signal.SIGSTOP):
        time.sleep(trial.some_time())
        process.send(signal.SIGCONT)
        code = process.wait(PATIENCE)
        trial.injected("controller stopped", f"after {moment:.3f} s -> {code}")
        if code:
            trial.wrong(f"stopped and continued: exit code {code}, {last_line(process.output)}")


def _after_a_while(trial: Trial) -> tuple[Process, float]:
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    return process, moment


def _some_worker(trial: Trial, process: Process) -> int | None:
    deadline = time.monotonic() + 1.0
    while process.poll() is None and time.monotonic() < deadline:
        if workers := process.children():
            return trial.rng.choice(sorted(workers))
        time.sleep(0.005)
    return None
