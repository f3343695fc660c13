"""Signals that ask a run to stop: it saves at the end of a step and ends, to be taken up again.

A cluster sends USR1 before a time limit (as the job asks) and TERM at preemption; a person sends
INT (Ctrl-C; a second one does not wait for the step's end) or TERM.
A handler that saves by itself may meet half-updated tensors, so that ours only raise a flag while
training lasts. Anywhere else there is nothing to save, and they end the process at once. Once its
outcome is known, a process ends by itself: only INT may still hurry it.

Python's handlers run between two of its own instructions, in the main thread. While foreign code
has that thread (a tokenizer that trains, a compiler that is waited for), none does. So a thread
ends the process of a command that has not ended GRACE seconds after a signal and has no step to
save: by the same journal, queue and exit code. It needs Python's interpreter lock, as the watchdog
does.

Standard library only, and quick to import: a signal before a handler is set kills.
"""

import atexit
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

from experiments.system.processes import started_by

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGINT)
_ENDING = (signal.SIGTERM, signal.SIGINT)  # not forgotten for a later USR1: it asks to go on
_SOON, _TICK = 0.05, 0.1  # seconds
_LONGEST = 1.0  # seconds of a tick, which may be longer where the whole process was stopped
GRACE = 5.0  # seconds that a process with nothing to save has to end by itself
Tell = Callable[[KeyboardInterrupt], int | None]


class Interrupted(KeyboardInterrupt):
    """Says that the run was asked to stop and has saved a checkpoint.

    Not an Exception: no handler of failures may take it for one. step: how far it is, if it had
    begun to train.
    """

    def __init__(self, why: str, step: int | None = None) -> None:
        super().__init__(why if step is None else f"{why} at step {step}")
        self.step = step


class _Command:
    """A command that may be ended, with that exit code."""

    def __init__(self, code: int) -> None:
        self.code = code


class _State:
    listening = False
    registered = False
    begun = False
    training = False
    unsaved = False
    ending = False
    waiting = False
    received: int | None = None
    command: _Command | None = None
    watched: int | None = None  # the process that has the thread: a fork has none


_state = _State()
_tells: list[Tell] = []
_telling = threading.RLock()


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
            os.register_at_fork(after_in_child=_as_if_alone)
        _keep_watch()


def _keep_watch() -> None:
    """Starts the thread that ends the process, where it may be ended and hears signals."""
    if _state.listening and _state.command is not None and _state.watched != os.getpid():
        _state.watched = os.getpid()
        reading, writing = os.pipe()
        os.set_blocking(writing, False)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)  # whatever the main thread does
        threading.Thread(target=_watch, args=(reading,), name="grace", daemon=True).start()


def _as_if_alone() -> None:
    """In a fork: its signals are not its parent's, nor what is to be told of them."""
    global _telling
    signal.set_wakeup_fd(-1)
    _state.watched = _state.command = None
    _telling = threading.RLock()
    _tells.clear()


def _watch(reading: int) -> None:
    """Ends the process if it may be, and does not by itself. Reads the numbers of signals."""
    while True:
        number = next((n for n in os.read(reading, 64) if n in SIGNALS), None)
        command, left, last = _state.command, GRACE, time.monotonic()
        if number is None or command is None or _state.ending:
            continue
        while _state.command is command:
            time.sleep(_TICK)
            now = time.monotonic()
            saves = _state.training and _state.unsaved
            left = GRACE if saves or _state.waiting else left - min(now - last, _LONGEST)
            last = now
            if left <= 0:
                _end(command, number)


def _end(command: _Command, number: int) -> None:
    """Says what is told of an interruption, and ends the process and what it has started."""
    with _telling:
        if _state.command is not command:  # the main thread has come to its end
            return
        code = command.code
        if _state.received is None:
            _state.received = number
        error = Interrupted(received() or "")
        for tell in reversed(_tells):
            with suppress(Exception):
                said = tell(error)
                code = code if said is None else said
        with suppress(OSError):
            os.write(2, f"interrupted: {error}\n".encode())
        for pid in started_by(os.getpid()):
            with suppress(OSError):
                if os.getsid(pid) == os.getsid(0):  # W&B's has its own, and ends with our pipe
                    os.kill(pid, signal.SIGTERM)
        os._exit(code)


@contextmanager
def bounded(code: int) -> Iterator[None]:
    """While it lasts, this process may be ended after a signal, with that exit code or what a
    tell() returns. It is for commands: of a notebook nothing but the run is to end.
    """
    before, _state.command = _state.command, _Command(code)
    if threading.current_thread() is threading.main_thread():
        _keep_watch()
    try:
        yield
    finally:
        with _telling:
            _state.command = before


@contextmanager
def told(tell: Tell) -> Iterator[None]:
    """tell(error) of an interruption that comes meanwhile, once: here when it is raised, or, if it
    can't be, by the thread that ends the process, with the exit code that it returns unless None.
    """
    _tells.append(tell)
    try:
        yield
    except KeyboardInterrupt as error:
        with _telling:
            _tells.remove(tell)
            said = tell(error)
            if said is not None and _state.command is not None:
                _state.command.code = said
        raise
    finally:
        if tell in _tells:
            _tells.remove(tell)


@contextmanager
def waiting() -> Iterator[None]:
    """While it lasts, the process waits for others, which save and end."""
    before, _state.waiting = _state.waiting, True
    try:
        yield
    finally:
        _state.waiting = before


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
    """Name of the signal that has come, as SIGUSR1, or None."""
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
    _state.training, _state.unsaved = True, False
    note_begun()
    try:
        yield
    finally:
        _state.training = False


def note_unsaved(unsaved: bool) -> None:
    """Whether this process has taken steps that would be lost with it."""
    _state.unsaved = unsaved
