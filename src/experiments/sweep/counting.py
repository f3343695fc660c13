"""Lines of progress for what takes more than a few seconds before a sweep's first run starts."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from experiments.system.plain_text import raw

T = TypeVar("T")
_FIRST, _EVERY = 2.0, 5.0  # seconds


def counted(items: Iterable[T], total: int, what: str) -> Iterator[T]:
    """Items; says on stderr how many are through, first after two seconds.

    On a terminal one line that changes, and is gone at the end; else a line every five seconds.
    """
    terminal = sys.stderr.isatty()
    due = time.monotonic() + _FIRST
    printed = False
    for n, item in enumerate(items, 1):
        yield item
        if n < total and time.monotonic() >= due:  # what follows the last one says that it began
            text = f"{what}: {n} of {total} points"
            print(f"\r{text}" if terminal else text, end="" if terminal else "\n", file=sys.stderr)
            sys.stderr.flush()
            due, printed = time.monotonic() + (0.2 if terminal else _EVERY), True
    if printed and terminal:
        print("\r\033[K", end="", file=raw(sys.stderr))
