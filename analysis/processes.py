"""`map` over the cores of this machine, and fits that they begin before they are asked for."""

import gc
import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")
_MOST = 4  # processes: a report has some twenty figures, and each process takes its memory


class Map(Protocol):
    """Python's map, or one like it: results come in the order of the items."""

    def __call__(self, function: Callable[[A], B], items: Iterable[A], /) -> Iterator[B]: ...


@contextmanager
def mapping(n_items: int) -> Iterator[Map]:
    """Maps with a process for each core, or in this one if it has one core or may not fork.

    Raises RuntimeError if a process was killed; else the first error that an item raised.
    """
    n_processes = min(_cores(), _MOST, n_items)
    if n_processes < 2 or not _can_fork():
        yield map
        return
    pool = ProcessPoolExecutor(n_processes, mp.get_context("fork"), initializer=_begin)
    try:
        yield pool.map
    except BrokenExecutor as error:
        raise RuntimeError(
            "a process that fitted or drew was killed, perhaps for want of memory; give the same "
            "command again, with one core if need be: taskset -c 0 python -m analysis ..."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


class Begun(Generic[T]):
    """Fits that are made in turn, by the processes of a `mapping` where it has some, each to be
    taken by its name while it is open.
    """

    def __init__(self, each: Map, fits: Mapping[str, Callable[[], T]]) -> None:
        self._names = list(fits)
        self._results = each(_tried, fits.values())
        self._made: dict[str, T | ValueError] = {}

    def __call__(self, name: str) -> Callable[[], T]:
        """Fit, which waits until it is made; it raises the ValueError that the fit did."""

        def take() -> T:
            while name not in self._made:
                self._made[self._names[len(self._made)]] = next(self._results)
            found = self._made[name]
            if isinstance(found, ValueError):
                raise found
            return found

        return take


def _tried(fit: Callable[[], T]) -> T | ValueError:
    """Kept, as an iterator ends with the first error that it raises."""
    try:
        return fit()
    except ValueError as error:  # a FitError is one
        return error


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _can_fork() -> bool:
    """A copy of this process has its locks as they are, and no other thread to release them.

    Threads of OpenBLAS don't count: it ends them before a fork.
    """
    return sys.platform == "linux" and threading.active_count() == 1


def _begin() -> None:
    """Ctrl-C is for the process that waits; if that is gone, nobody needs the results. What is here
    already stays to the end: the collector needn't look at it again and again.
    """
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
