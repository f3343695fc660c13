"""Work that is being done, said now and then: a download or a tokenizer takes minutes."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

EVERY = 30.0  # seconds


class _Work:
    """A piece of work: its name, since when, and how many bytes of it are done."""

    def __init__(self, what: str) -> None:
        self.what, self.start, self.n_bytes = what, time.monotonic(), 0

    def __str__(self) -> str:
        done = f", {self.n_bytes / 1e6:.1f} MB" if self.n_bytes else ""
        return f"{self.what}{done}, {time.monotonic() - self.start:.0f} s"


_doing: list[_Work] = []


@contextmanager
def doing(what: str) -> Iterator[_Work]:
    """Names what is done while it lasts; whoever does it may add to n_bytes."""
    work = _Work(what)
    _doing.append(work)
    try:
        yield work
    finally:
        _doing.remove(work)


@contextmanager
def said(name: str) -> Iterator[None]:
    """While it lasts, a line every EVERY seconds says what is being done for `name`."""
    over = threading.Event()

    def say() -> None:
        while not over.wait(EVERY):
            if works := [*_doing]:
                print(f"preparing {name}: {works[-1]}", flush=True)

    thread = threading.Thread(target=say, name="preparing", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
