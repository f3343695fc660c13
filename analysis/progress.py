"""Progress of a long command, on stderr: one line written over on a terminal, else a line each."""

import sys
import time
from collections.abc import Callable

from experiments.system.plain_text import raw

Say = Callable[[str], None]


def silent(_: str) -> None:
    """Where nobody waits, e.g. in a notebook."""


class Steps:
    """Says each step as it begins, with the seconds since the first."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._over = sys.stderr.isatty()

    def __call__(self, what: str) -> None:
        seconds = time.monotonic() - self._started
        line = f"[{seconds:4.0f} s] {what}"
        if self._over:
            print("\r\x1b[K", end="", file=raw(sys.stderr))
        print(line, end="" if self._over else "\n", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leaves the terminal's line empty."""
        if self._over:
            print("\r\x1b[K", end="", file=raw(sys.stderr), flush=True)
