"""Locks on open files, which the system lets go of however their process ends. Stdlib only.

A file system without flock is no error: a warning says so, once for each, and nothing is locked.
"""

import errno
import fcntl
import os
import random
import time
import warnings
from pathlib import Path
from typing import IO, Any

from experiments.system.regular_files import FileRefusedError, open_regular

_HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
_POLL = 0.01, 0.03  # seconds between two tries, at random: two who ask must not keep step

_warned: set[int] = set()  # file systems, by device number


def lock(file: IO[Any], patience: float | None = None) -> bool:
    """Whether this process has the file's lock now.

    patience: seconds for which another may go on having it; None waits as long as it takes. Where
    there are no locks it warns and returns True.
    """
    if patience is None:
        return _flock(file, fcntl.LOCK_EX)
    end = time.monotonic() + patience
    while not _flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB):
        if time.monotonic() >= end:
            return False
        time.sleep(random.uniform(*_POLL))
    return True


def is_locked(path: Path) -> bool:
    """Whether a process has the lock of that file. False if there is no file, or no locks.

    Asking takes a shared lock for an instant, which is why lock() has patience.
    """
    try:
        file = open_regular(path)
    except (FileNotFoundError, NotADirectoryError, FileRefusedError):
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return error.errno in _HELD
    return False


def _flock(file: IO[Any], how: int) -> bool:
    try:
        fcntl.flock(file, how)
    except OSError as error:
        if error.errno in _HELD:
            return False
        device = os.fstat(file.fileno()).st_dev
        if device not in _warned:
            _warned.add(device)
            warnings.warn(
                f"{file.name} can't be locked ({error.strerror}): on this file system nothing "
                "keeps two commands from the same submission; start each once only",
                stacklevel=3,
            )
    return True
