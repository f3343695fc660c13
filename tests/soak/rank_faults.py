"""Kills, signals and stops of the processes that train one point together."""

import os
import signal
import time
from contextlib import suppress

from tests.soak.faults import fault
from tests.soak.processes import Process
from tests.soak.stage import PATIENCE
from tests.soak.trials import Trial


@fault("rank kill -9", "ddp", "ranks", weight=3)
def kill_rank(trial: Trial) -> None:
    """One of them; the launcher ends the other."""
    process, ranks, moment = _ranks_after_a_while(trial)
    if ranks:
        _send(trial.rng.choice(ranks), signal.SIGKILL)
    code = process.wait(PATIENCE)
    if ranks and code:
        trial.injected("rank kill -9", f"after {moment:.3f} s -> {code}")


@fault("all ranks kill -9", "ddp", "ranks")
def kill_ranks(trial: Trial) -> None:
    """All at once, as a job that is killed."""
    process, ranks, moment = _ranks_after_a_while(trial)
    for pid in ranks:
        _send(pid, signal.SIGKILL)
    code = process.wait(PATIENCE)
    if ranks and code:
        trial.injected("all ranks kill -9", f"after {moment:.3f} s -> {code}")


@fault("rank signal", "ddp", "ranks", weight=2)
def signal_ranks(trial: Trial) -> None:
    """To one or to all: all save together."""
    process, ranks, moment = _ranks_after_a_while(trial)
    name = trial.rng.choice(("TERM", "USR1"))
    chosen = ranks if trial.rng.random() < 0.5 else ranks[:1] or ranks
    now = time.perf_counter()
    trial.stage.asked |= dict.fromkeys(ranks if chosen else [], now)  # any one's signal is all's
    for pid in chosen:
        _send(pid, signal.Signals[f"SIG{name}"])
    code = process.wait(PATIENCE)
    if chosen and code:
        trial.injected("rank signal", f"{name} to {len(chosen)} after {moment:.3f} s -> {code}")


@fault("rank stopped", "ddp", "ranks")
def stop_rank(trial: Trial) -> None:
    """For a moment; the other waits."""
    process, ranks, moment = _ranks_after_a_while(trial)
    if not ranks:
        process.wait(PATIENCE)
        return
    pid = trial.rng.choice(ranks)
    _send(pid, signal.SIGSTOP)
    time.sleep(trial.rng.uniform(0.1, 1.0))
    _send(pid, signal.SIGCONT)
    code = process.wait(PATIENCE)
    trial.injected("rank stopped", f"after {moment:.3f} s -> {code}")
    if code:
        trial.wrong(f"a rank was stopped and continued: exit code {code}")


def _ranks_after_a_while(trial: Trial) -> tuple[Process, list[int], float]:
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    ranks = process.children() if process.poll() is None else []
    return process, sorted(ranks), moment


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)
