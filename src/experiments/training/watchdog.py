"""Ends a process that trains and makes no step: a collective whose other rank is gone, a file
system that doesn't answer, a deadlock. Nothing else would end it or free its claim.
"""

import faulthandler
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from experiments.system.requeue import STALLED

_POLL = 1.0  # seconds, at most
_PATIENCE = 90.0  # seconds for on_stall, which may ask a queue
_GRACE = 10.0  # seconds that other ranks leave to rank 0, which writes for the run


class Watchdog:
    """Counts the seconds since the last beat(), in a thread of its own.

    Its own sleep is the clock: time in which the whole process was stopped does not count. It needs
    Python's interpreter lock, so that code which hangs with that lock held is not seen.
    """

    def __init__(
        self, minutes: float, on_stall: Callable[[str], object], grace: float = 0.0
    ) -> None:
        """on_stall(why) is called in the thread, before the process ends, `grace` seconds late."""
        self.limit, self.on_stall, self.grace = 60 * minutes, on_stall, grace
        self.idle = 0.0
        self._over = threading.Event()

    def beat(self) -> None:
        """A step was made."""
        self.idle = 0.0

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While it lasts, beats are expected."""
        thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self.beat()
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _watch(self) -> None:
        poll = min(_POLL, self.limit / 10)
        last = time.monotonic()
        while not self._over.wait(poll):
            now = time.monotonic()
            self.idle += min(now - last, 2 * poll)
            last = now
            if self.idle > self.limit:
                self._end()

    def _end(self) -> None:
        why = f"no step in {self.limit:.0f} s (trainer.stall_minutes={self.limit / 60:g})"
        os.write(2, f"stalled: {why}; where every thread is:\n".encode())
        faulthandler.dump_traceback(2)
        time.sleep(self.grace)
        # in a thread: a disk that hangs, or is full, must not keep the process alive
        report = threading.Thread(target=self.on_stall, args=(why,), daemon=True)
        report.start()
        report.join(_PATIENCE)
        os._exit(STALLED)


def _nothing(why: str = "") -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Guards:
    """Looks after a training. check() is called before anything is written, and after steps,
    once a second, and what it raises ends the training. on_stall(why) is called by rank 0, in a
    thread, before a process that makes no step is ended.
    """

    check: Callable[[], None] = _nothing
    on_stall: Callable[[str], object] = _nothing

    def watchdog(self, minutes: float | None, rank: int) -> Watchdog | None:
        """That of a rank; None if there is no limit."""
        if minutes is None:
            return None
        return (
            Watchdog(minutes, self.on_stall) if rank == 0 else Watchdog(minutes, _nothing, _GRACE)
        )


def every_second(function: Callable[[], None]) -> Callable[[], None]:
    """Calls the function, but not within a second of its last call."""
    last = -1.0

    def call() -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 1:
            last = now
            function()

    return call
