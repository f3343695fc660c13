"""Two hosts that share a folder and its locks: by the names that their processes have for them."""

import signal
import socket
from collections.abc import Callable

from tests.soak.faults import fault
from tests.soak.stage import ELSEWHERE, PATIENCE
from tests.soak.trials import Trial, last_line


def on_host(name: str) -> Callable[[], None]:
    """For a forked process to call first."""

    def before() -> None:
        socket.gethostname = lambda: name

    return before


@fault("two hosts", "hosts", "alone", "sweep", "branches", "search", weight=2)
def two_hosts(trial: Trial) -> None:
    """The same command on both; the first may be killed, and the second goes on."""
    first = trial.stage.start(on_host("host-a"))
    first.lives_for(trial.rng.choice((0.0, trial.some_time())))
    killed = trial.rng.random() < 0.5 and first.send(signal.SIGKILL)
    both = first.poll() is None
    second = trial.stage.start(on_host("host-b"))
    codes = (first.wait(PATIENCE), second.wait(PATIENCE))
    if both or killed:
        trial.injected("two hosts", f"{'first killed ' if killed else ''}-> {codes}")
    for process in (first, second):
        if process.code not in (0, 1, ELSEWHERE) and not (killed and process is first):
            trial.wrong(f"two hosts: {codes}: {last_line(process.output)}")
