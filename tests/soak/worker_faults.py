"""Kills, signals and stops of the one process that trains a point."""

import hashlib
import math
import os
import signal
import time
from typing import Any

from experiments.data import packing, tokenizer
from experiments.system.claims import CLAIM_NAME, read_events
from experiments.training import execute, starting
from experiments.training.module import LanguageModel
from tests.soak import diary
from tests.soak.enumerated import strike_once
from tests.soak.faults import fault
from tests.soak.operations import KINDS
from tests.soak.power import LOSSES
from tests.soak.stage import ELSEWHERE, PATIENCE
from tests.soak.trials import Trial, last_line

_SOFT = ("TERM", "INT", "USR1", "USR2")  # all of which save and end
_SOON = 10.0  # seconds in which they do
_FOREIGN: dict[str, tuple[Any, str]] = {  # functions that call such code, by what they do
    "data: a tokenizer": (tokenizer, "train_bpe"),
    "data: tokens": (packing, "_encode_chunk"),
    "a model": (starting, "build_model"),
    "a first step": (LanguageModel, "losses"),
    "scores": (execute, "_scored"),
    "the end": (execute, "forget_previous"),
}


@fault("kill -9", "worker", "alone", "export", "library", weight=6)
def kill(trial: Trial) -> None:
    """At any moment of a run."""
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    process.send(signal.SIGKILL)
    if process.wait(PATIENCE) == -signal.SIGKILL:
        trial.injected("kill -9", f"after {moment:.3f} s")


@fault("signal", "worker", "alone", "export", "library", weight=4)
def one_signal(trial: Trial) -> None:
    """One that asks to save and end."""
    _signals(trial, 1, 0.0)


@fault("two signals", "worker", "alone", "export", "library", weight=2)
def two_signals(trial: Trial) -> None:
    """As by an impatient user, or a cluster that sends several."""
    _signals(trial, 2, trial.rng.uniform(0.0, 0.1))


@fault("many signals", "worker", "alone")
def many_signals(trial: Trial) -> None:
    """Without end."""
    _signals(trial, 1000, 0.004)


@fault("signal at a step", "worker", "alone", weight=2)
def signal_at_a_step(trial: Trial) -> None:
    """From the run to itself, at a step or at the end of the last: no run may go on."""
    name = trial.rng.choice(_SOFT)
    at = trial.rng.choice((None, trial.rng.randrange(1, 70)))
    marker = trial.stage.folder / f"signal-{trial.stage.n_started}"

    def send(step: int | None) -> None:
        if step == at:
            marker.touch()
            os.kill(os.getpid(), signal.Signals[f"SIG{name}"])

    code = trial.stage.start(lambda: diary.at_steps(send)).wait(PATIENCE)
    if not marker.exists():  # it began after that step
        return
    trial.injected("signal at a step", f"{name} at {at or 'the end'} -> {code}")
    if code != 130:
        trial.wrong(f"{name} at {at or 'the end'}: it ended with {code}, not as interrupted")


@fault("foreign code", "worker", "alone", weight=2)
def foreign_code(trial: Trial) -> None:
    """A signal while code that isn't Python's has the process, for a quarter of an hour."""
    what = trial.rng.choice(list(_FOREIGN))
    name = trial.rng.choice(("TERM", "TERM", *_SOFT))
    stage, (owner, function) = trial.stage, _FOREIGN[what]
    if what.startswith("data"):
        stage.cache = stage.folder / f"cache-{stage.n_started}"
    marker = stage.folder / f"foreign-{stage.n_started}"

    def stuck(*_: object, **__: object) -> None:
        marker.touch()
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)

    process = stage.start(lambda: setattr(owner, function, stuck))
    while not marker.exists() and process.lives_for(0.02):
        pass
    start = time.monotonic()
    if not (marker.exists() and process.send(signal.Signals[f"SIG{name}"])):
        process.wait(PATIENCE)
        return  # nothing of it was left to do
    code = process.wait(PATIENCE)
    seconds = time.monotonic() - start
    trial.injected("foreign code", f"{what}, {name} -> {code} after {seconds:.1f} s")
    if code != 130 or seconds > _SOON:
        trial.wrong(f"{name} in {what}: it ended with {code}, {seconds:.1f} s after that")
    events = read_events(stage.run_dir) if stage.run_dir.exists() else []
    if not what.startswith("data") and events[-1]["event"] != "interrupted":
        trial.wrong(f"{name} in {what}: its journal ends with {events[-1]}")


def _signals(trial: Trial, n: int, pause: float) -> None:
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    sent = []
    while len(sent) < n:
        name = trial.rng.choice(_SOFT)
        now = time.perf_counter()
        if not process.send(signal.Signals[f"SIG{name}"]):
            break
        trial.stage.asked.setdefault(process.pid, now)
        sent.append(name)
        process.lives_for(pause)
    code, asked = process.wait(PATIENCE), trial.stage.asked.get(process.pid, math.inf)
    if (seconds := time.perf_counter() - asked) > _SOON:
        trial.wrong(f"{sent[:4]}: it lived for {seconds:.0f} s after that")
    if sent and code != 0:  # 0: it had ended by then, or nearly; the diary has its steps
        kind = "signal" if len(sent) == 1 else "two signals" if n == 2 else "many signals"
        trial.injected(kind, f"{'+'.join(sent[:4])} after {moment:.3f} s -> {code}")
        last = read_events(trial.stage.run_dir)[-1:] if trial.stage.run_dir.exists() else []
        if code not in (130, *(-signal.Signals[f"SIG{one}"] for one in _SOFT)):
            trial.wrong(f"{sent[:4]}: exit code {code}: {last_line(process.output)}, {last}")


@fault("file operation", "worker", "alone", "export", "library", weight=6)
def operation(trial: Trial) -> None:
    """N-th of a run: killed, denied, cut short or signalled there."""
    n = int(2 ** trial.rng.uniform(0, 8))  # the beginning, where a resumed run rewrites, oftener
    strike_once(trial, n, trial.rng.choice(KINDS))


@fault("loss of power", "power", "alone", "export", "library", weight=4)
def power(trial: Trial) -> None:
    """At the n-th file operation, or after the end."""
    strike_once(trial, int(2 ** trial.rng.uniform(0, 8)), trial.rng.choice(LOSSES))


@fault("stopped, another started", "worker", "alone", weight=2)
def stop(trial: Trial) -> None:
    """A stopped process keeps its run, and a second one has to leave it alone."""
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    if not process.send(signal.SIGSTOP):
        return
    claim = trial.stage.run_dir / CLAIM_NAME
    held = claim.exists() and claim.read_text() != "" and trial.stage.is_claimed()
    second = trial.stage.start()
    code = second.wait(PATIENCE)
    process.send(signal.SIGCONT)
    if trial.rng.random() < 0.3:
        process.send(signal.SIGKILL)
    process.wait(PATIENCE)
    if not held:
        return  # it was stopped before its claim or after its end: the second was right to run
    trial.injected("stopped, another started", f"after {moment:.3f} s -> {code}")
    starts = [event for event in read_events(trial.stage.run_dir) if event["event"] == "started"]
    by = {event["by"].rpartition(" ")[2] for event in starts}
    if str(second.pid) in by:
        trial.wrong("a second process trained a run that a stopped one held", "doubled")


@fault("two at once", "worker", "alone", weight=2)
def two_at_once(trial: Trial) -> None:
    """Same command twice; one of them trains."""
    first = trial.stage.start()
    first.lives_for(trial.rng.choice((0.0, trial.some_time())))
    second = trial.stage.start()
    both = first.poll() is None
    codes = (first.wait(PATIENCE), second.wait(PATIENCE))
    if both:
        trial.injected("two at once", f"-> {codes}")
    for process in (first, second):
        if process.code not in (0, ELSEWHERE):
            trial.wrong(f"two at once: {codes}: {last_line(process.output)}")


@fault(".claim deleted", "worker", "alone")
def claim_deleted(trial: Trial) -> None:
    """While a process holds it; then another is started."""
    process, moment = trial.stage.start(), trial.some_time()
    process.lives_for(moment)
    claim = trial.stage.run_dir / CLAIM_NAME
    if not (trial.stage.is_claimed() and process.poll() is None):
        process.wait(PATIENCE)
        return
    claim.unlink()
    second = trial.stage.start()
    codes = (process.wait(PATIENCE), second.wait(PATIENCE))
    trial.injected(".claim deleted", f"after {moment:.3f} s -> {codes}")
