"""A bar on stderr; nothing where tqdm is not installed, as on a bare machine with a GPU."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

_Item = TypeVar("_Item")


class _NoBar:
    """tqdm's methods that are used here."""

    def set_postfix_str(self, name: str) -> None: ...
    def update(self) -> None: ...


@contextmanager
def bar(total: int, label: str) -> Iterator[Any]:
    """tqdm's bar of `total` steps, or none."""
    try:
        from tqdm import tqdm
    except ImportError:
        yield _NoBar()
        return
    with tqdm(total=total, desc=label, file=sys.stderr) as shown:
        yield shown


def each(items: Iterable[_Item], total: int, label: str) -> Iterator[_Item]:
    """Items, counted by a bar."""
    with bar(total, label) as shown:
        for item in items:
            yield item
            shown.update()
