"""Folders that are made once: built under a temporary name, locked, renamed when complete."""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.system.disk import make_folder, opened, reached, remove_tree, whole_folder
from experiments.system.locks import lock

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds an exclusive lock named after `path`; a second process waits for the first."""
    path = reached(path)
    make_folder(path.parent)
    with opened(path.with_name(f".{path.name}.lock"), "w") as file:
        lock(file)
        yield


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by make(temporary_folder) unless it exists already.

    A process killed half-way leaves only a temporary folder, which the next one removes. After a
    power loss the folder is whole or not there. Caches are the user's own: links to it are
    followed.
    """
    folder = reached(folder)
    if folder.exists():
        return folder
    with full_disk_explained(folder), locked(folder):
        if not folder.exists():
            for leftover in folder.parent.glob(f".{folder.name}.partial-*"):  # on any machine
                remove_tree(leftover)
            with whole_folder(folder) as new:
                make(new)
    return folder


@contextmanager
def full_disk_explained(folder: Path) -> Iterator[None]:
    """Turns the system's "disk is full" into a message with place and remedy."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        raise RuntimeError(
            f"no space left to write {folder} ({os.strerror(error.errno or 0).lower()}); "
            "complete files in the cache are kept: free some space, or set paths.cache=... to "
            "another disk, and run the same command again"
        ) from None
