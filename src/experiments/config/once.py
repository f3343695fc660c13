"""Values that equal nodes of many configs are read as, made once while a sweep is planned.

Points of a sweep share most of their groups. What is kept can't be changed, so that points may have
the same; it is kept no longer than the planning, because some of it was looked up on the disk.
"""

import dataclasses
import json
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LIMIT = 4096  # values that are kept; the one that was not asked for longest goes
_PLAIN = (type(None), bool, int, float, str, Path, type)
_KEPT: ContextVar[OrderedDict[Hashable, Any] | None] = ContextVar("_KEPT", default=None)


@contextmanager
def remembering() -> Iterator[None]:
    """Within this, `once` makes equal values once."""
    token = _KEPT.set(OrderedDict())
    try:
        yield
    finally:
        _KEPT.reset(token)


def once(key: Hashable, node: Any, make: Callable[[], T]) -> T:
    """make(), or what it was for the same key and an equal node, if that is frozen throughout.

    node: plain values, distinguished as JSON does it: 1 is neither 1.0 nor true. key: all else that
    the value depends on.
    """
    kept = _KEPT.get()
    if kept is None:
        return make()
    try:
        whole = key, json.dumps(node)
    except (TypeError, ValueError):  # it holds what is read already
        return make()
    if whole in kept:
        kept.move_to_end(whole)
        found: T = kept[whole]
        return found
    made = make()
    if is_frozen(made):
        kept[whole] = made
        if len(kept) > LIMIT:
            kept.popitem(last=False)
    return made


def is_frozen(value: Any) -> bool:
    """Whether it is made of frozen dataclasses, tuples and plain values alone."""
    if isinstance(value, tuple):
        return all(map(is_frozen, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        frozen: bool = type(value).__dataclass_params__.frozen  # type: ignore[attr-defined]
        return frozen and all(is_frozen(held) for held in vars(value).values())
    return isinstance(value, _PLAIN)
