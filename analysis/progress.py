"""Progress of a long command, on stderr: one line written over on a terminal, else a line each."""

import sys
import time
from collections.abc import Callable

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
        print(f"\r\x1b[K{line}" if self._over else line, end="", file=sys.stderr, flush=True)
        if not self._over:
            print(file=sys.stderr)

    def close(self) -> None:
        """Leaves the terminal's line empty."""
        if self._over:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
