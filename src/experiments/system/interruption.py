"""Signals that ask a run to stop: it saves at the end of a step and ends, to be taken up again.

A cluster sends USR1 before a time limit (as the job asks) and TERM at preemption; a person sends
INT (Ctrl-C; a second one does not wait for the step's end) or TERM.
A handler that saves by itself may meet half-updated tensors, so that ours only raise a flag while
training lasts. Anywhere else there is nothing to save, and they end the process at once. Once its
outcome is known, a process ends by itself: only INT may still hurry it.

Standard library only, and quick to import: a signal before a handler is set kills.
"""

import atexit
import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_ENDING = (signal.SIGTERM, signal.SIGINT)  # not forgotten for a later USR1: it asks to go on
_SOON = 0.05  # seconds


class Interrupted(KeyboardInterrupt):
    """The run was asked to stop and has saved a checkpoint.

    Not an Exception: no handler of failures may take it for one. step: how far it is, if it had
    begun to train.
    """

    def __init__(self, why: str, step: int | None = None) -> None:
        super().__init__(why if step is None else f"{why} at step {step}")
        self.step = step


class _State:
    listening = False
    registered = False
    begun = False
    training = False
    ending = False
    received: int | None = None


_state = _State()


def listen() -> None:
    """Sets the handlers, in the main thread; elsewhere no signal arrives, and it does nothing."""
    if threading.current_thread() is threading.main_thread():
        _state.listening, _state.ending = True, False
        for number in SIGNALS:
            signal.signal(number, _handle)
        sys.unraisablehook = _raise_later
        if not _state.registered:
            _state.registered = True
            atexit.register(_exit_undisturbed)


def _exit_undisturbed() -> None:
    """Ignores, while Python finalizes, the signals that only ask to stop: it puts handlers back to
    those that kill, and signals that are ignored stay so.
    """
    for number in SIGNALS:
        if number != signal.SIGINT:
            signal.signal(number, signal.SIG_IGN)


def _raise_later(dropped: "sys.UnraisableHookArgs") -> None:
    """An interruption that Python drops, because it came in a finalizer or in what a library does
    at a fork, is sent again when that is over. Other errors are shown as ever.
    """
    number = _state.received
    if not isinstance(dropped.exc_value, Interrupted) or number is None:
        sys.__unraisablehook__(dropped)
        return
    again = threading.Timer(_SOON, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()


def listen_again() -> None:
    """Puts back the handlers that a library has replaced, if they had been set."""
    if _state.listening:
        listen()


def _handle(number: int, frame: FrameType | None) -> None:
    again = number == signal.SIGINT == _state.received
    if _state.received not in _ENDING or number == signal.SIGINT:
        _state.received = number
    if again or not (_state.training or (_state.ending and number != signal.SIGINT)):
        raise Interrupted(received() or signal.Signals(number).name)


def ending() -> None:
    """From now on the process ends by itself: an exception would only break what it puts in order.

    Python's own exit calls what libraries have registered, and a signal may come meanwhile.
    """
    _state.ending = True


def received() -> str | None:
    """The name of the signal that has come, as SIGUSR1, or None."""
    return None if _state.received is None else signal.Signals(_state.received).name


def note_begun() -> None:
    """From now on there is, or will be, a checkpoint that the same command goes on from."""
    _state.begun = True


def has_begun() -> bool:
    """Whether anything of this process had begun to train."""
    return _state.begun


def forget() -> None:
    """As if none had come: a new run in the same process."""
    _state.received = None


@contextmanager
def heard() -> Iterator[None]:
    """An interruption that comes meanwhile is raised at the end, whatever a library has made of it.

    torch.asarray, by which safetensors makes tensors, asks a storage for its first item, and takes
    any error there for "could not determine the shape" (compute_sizes of tensor_new.cpp).
    """
    raised: list[KeyboardInterrupt] = []
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():  # no signal arrives in others
        before = {n: handler for n in SIGNALS if callable(handler := signal.getsignal(n))}

    def handle(number: int, frame: FrameType | None) -> None:
        try:
            before[number](number, frame)
        except KeyboardInterrupt as interrupted:
            raised.append(interrupted)
            raise

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    except Exception:
        if not raised:
            raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if raised:
        raise raised[0]


@contextmanager
def deferred() -> Iterator[None]:
    """While it lasts, a signal only leaves its name in received()."""
    _state.training = True
    note_begun()
    try:
        yield
    finally:
        _state.training = False
