"""A bar on stderr; nothing where tqdm is not installed, as on a bare machine with a GPU."""

import sys
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TypeVar

_Item = TypeVar("_Item")


class Bar:
    """tqdm's bar of `total` steps, or none."""

    def __init__(self, total: int, label: str) -> None:
        try:
            from tqdm import tqdm
        except ImportError:
            self._bar = None
        else:
            self._bar = tqdm(total=total, desc=label, file=sys.stderr)

    def __enter__(self) -> "Bar":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def begin(self, name: str) -> None:
        """Names the step that is under way."""
        if self._bar is not None:
            self._bar.set_postfix_str(name)

    def update(self) -> None:
        """A step is done."""
        if self._bar is not None:
            self._bar.update()


def each(items: Iterable[_Item], total: int, label: str) -> Iterator[_Item]:
    """The items, counted by a bar."""
    with Bar(total, label) as bar:
        for item in items:
            yield item
            bar.update()
