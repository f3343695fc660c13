"""`map` over the cores of this machine."""

import multiprocessing as mp
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Protocol, TypeVar

A = TypeVar("A")
B = TypeVar("B")
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
            "a process that drew figures was killed, perhaps for want of memory; give the same "
            "command again, with one core if need be: taskset -c 0 python -m analysis ..."
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def _can_fork() -> bool:
    """A copy of this process has its locks as they are, and no other thread to release them.

    Threads of OpenBLAS don't count: it ends them before a fork.
    """
    return sys.platform == "linux" and threading.active_count() == 1


def _begin() -> None:
    """Ctrl-C is for the process that waits; if that is gone, nobody needs the results."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = mp.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
