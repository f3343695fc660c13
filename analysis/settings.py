"""Names of settings in messages: as arguments in Python, as options where they are typed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

Named = Callable[[str, object], str]
NOT_SAID = object()  # a value that a message leaves open


def in_python(name: str, value: object) -> str:
    """A setting as an argument, and as registrations have it."""
    return name if value is NOT_SAID else f"{name}={value!r}"


_named: ContextVar[Named] = ContextVar("how a message names a setting", default=in_python)


def setting(name: str, value: object = NOT_SAID) -> str:
    """Name a setting as its reader gives it: series=['model'] in Python, --series model if typed.

    name: the argument's. A message with it says what can't be, or what to give.
    """
    return _named.get()(name, value)


@contextmanager
def settings_named(by: Named) -> Iterator[None]:
    """Let messages name settings this way until the end of the block."""
    before = _named.set(by)
    try:
        yield
    finally:
        _named.reset(before)
