"""Results reach their folder when all of them are whole, or not at all."""

import errno
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from analysis.unchanged import unchanged
from experiments.system.disk import make_folder, remove_empty, remove_tree, rename
from experiments.system.git import tracked

_PREFIX = ".analysis-"
_DAY = 86_400  # seconds
_REASONS = {
    errno.EEXIST: "a file of that name is there",
    errno.ENOTDIR: "a part of its path is a file",
    errno.EISDIR: "a folder has the name of a file to write",
    errno.ENOENT: "no folder can be made there",
}


class WriteError(RuntimeError):
    """A disk denies what was to be written: path, reason and remedy in one line."""


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """A hidden folder inside `folder`; what is in it moves there when the block ends well. A file
    there that says the same (unchanged.py) stays as it is.

    After an error nothing is left, not even folders that were made for it. Raises WriteError for
    what the disk denies.
    """
    missing: list[Path] = []
    try:
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
        make_folder(folder)
        _remove_leftovers(folder)
        with tempfile.TemporaryDirectory(dir=folder, prefix=_PREFIX) as name:
            yield Path(name)
            _move(Path(name), folder)
    except OSError as error:
        why = _REASONS.get(error.errno or 0, error.strerror or str(error))
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "free some space, or" if full else "make it writable, or"
        raise WriteError(
            f"can't write to {folder}: {why}; {remedy} name another folder: --out DIR"
        ) from error
    finally:
        for path in missing:
            remove_empty(path)


def committed_otherwise(new: Path, folder: Path) -> list[str]:
    """Names of files below `new` that are committed in `folder`, of this checkout, and say there
    something else (unchanged.py).
    """
    checkout = Path(__file__).resolve().parents[1]
    if not folder.resolve().is_relative_to(checkout):  # in a stranger's, git is not asked
        return []
    files = [path.relative_to(new) for path in sorted(new.rglob("*")) if path.is_file()]
    same = unchanged(new, folder, files)
    there = [folder / path for path in files if path not in same and (folder / path).is_file()]
    kept = tracked(checkout, there)
    return [str(path.relative_to(folder)) for path in there if path in kept]


def check_folder(folder: Path) -> None:
    """Raises WriteError if nothing can be written there, and leaves nothing behind."""
    with staged(folder):
        pass


def _move(source: Path, folder: Path) -> None:
    paths = [path.relative_to(source) for path in sorted(source.rglob("*"))]
    files = [path for path in paths if not (source / path).is_dir()]
    taken = next((path for path in files if (folder / path).is_dir()), None)
    if taken is not None:  # before any other is moved
        raise IsADirectoryError(errno.EISDIR, "is a folder", str(folder / taken))
    same = unchanged(source, folder, files)
    for path in files:
        if path in same:
            continue
        make_folder((folder / path).parent)
        rename(source / path, folder / path)


def _remove_leftovers(folder: Path) -> None:
    """Removes folders of commands that were killed; one a day old has no command any more."""
    for path in folder.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another command has just removed it
            if time.time() - path.stat().st_mtime > _DAY:
                remove_tree(path)
