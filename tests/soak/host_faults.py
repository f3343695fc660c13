"""Two hosts that share a folder, and its locks or not: by what their processes take them for."""

import fcntl
import signal
import socket
import time
from pathlib import Path

from experiments.system import claims, processes
from tests.soak import diary
from tests.soak.faults import fault
from tests.soak.judge import DOUBLED
from tests.soak.processes import Process
from tests.soak.stage import ELSEWHERE, PATIENCE
from tests.soak.trials import Trial, last_line


def start_on(
    trial: Trial, host: str, shares_locks: bool = True, until: Path | None = None
) -> Process:
    """Trial's command, in a process that is on a host of that name, and not on this one.
    until: its training waits at each step until that file is there.
    """
    boot = trial.stage.folder / f"{host}-boot"

    def before() -> None:
        socket.gethostname = lambda: host
        boot.write_text(host)
        processes._BOOT = boot
        if not shares_locks:
            fcntl.flock = fcntl.lockf = lambda *arguments: None
        if until is not None:
            diary.at_steps(lambda step: _wait_for(until))

    return trial.stage.start(before)


@fault("two hosts", "hosts", "alone", "sweep", "branches", "search", weight=2)
def two_hosts(trial: Trial) -> None:
    """Same command on both; the first may be killed, and the second goes on."""
    first = start_on(trial, "host-a")
    first.lives_for(trial.rng.choice((0.0, trial.some_time())))
    killed = trial.rng.random() < 0.5 and first.send(signal.SIGKILL)
    trial.leased |= killed
    both = first.poll() is None
    second = start_on(trial, "host-b")
    codes = (first.wait(PATIENCE), second.wait(PATIENCE))
    if both or killed:
        trial.injected("two hosts", f"{'first killed ' if killed else ''}-> {codes}")
    for process in (first, second):
        if process.code not in (0, 1, ELSEWHERE) and not (killed and process is first):
            trial.wrong(f"two hosts: {codes}: {last_line(process.output)}")


@fault("locks that don't meet", "locks", "alone", weight=2)
def locks_apart(trial: Trial) -> None:
    """Both train the run, each with locks of its own: one of them has to see the other."""
    trial.locked = trial.trusted = False
    first, moment = start_on(trial, "host-a", shares_locks=False), trial.some_time()
    first.lives_for(trial.rng.choice((0.0, moment)))
    second = start_on(trial, "host-b", shares_locks=False)
    both = first.poll() is None
    if killed := trial.rng.random() < 0.3:
        second.lives_for(trial.some_time())
        killed = trial.rng.choice((first, second)).send(signal.SIGKILL)
    trial.leased |= killed
    codes = (first.wait(PATIENCE), second.wait(PATIENCE))
    if not both:
        return
    trial.injected("locks that don't meet", f"after {moment:.3f} s -> {codes}")
    trial.n_done += 1  # both may be right
    for process in (first, second):
        if process.code not in (0, ELSEWHERE) and not (killed and process.code == -signal.SIGKILL):
            trial.wrong(f"locks that don't meet: {codes}: {last_line(process.output)}")


@fault("lease", "locks", "alone")
def lease(trial: Trial) -> None:
    """A second host, which sees no lock of the first, comes when that has trained for longer than a
    lease, and trains for as long as the second looks: it leaves the run alone.
    """
    trial.locked = False
    looked = trial.stage.folder / f"looked-{trial.stage.n_started}"
    first = start_on(trial, "host-a", shares_locks=False, until=looked)
    while not _has_begun(trial, first) and first.lives_for(0.05):
        pass
    first.lives_for(claims.LEASE + 1.0)
    second = start_on(trial, "host-b", shares_locks=False)
    code = second.wait(PATIENCE)
    looked.touch()
    if not (_has_begun(trial, first) and first.poll() is None):
        first.wait(PATIENCE)
        return  # there was little left to do
    trial.injected("lease", f"-> {code}")
    if code != ELSEWHERE or _has_begun(trial, second):
        trial.wrong(f"it had another host's run: {code}, {last_line(second.output)}", DOUBLED)
    if code := first.wait(PATIENCE):
        trial.wrong(f"it lost its run to another host: {code}, {last_line(first.output)}")


def _wait_for(path: Path) -> None:
    """Until it is there, or the harness has no more patience."""
    end = time.monotonic() + PATIENCE
    while not path.exists() and time.monotonic() < end:
        time.sleep(0.05)


def _has_begun(trial: Trial, process: Process) -> bool:
    """Whether it has begun to train."""
    entries = diary.read(trial.stage.diary)
    return any(entry["pid"] == process.pid for own in entries.values() for entry in own)
