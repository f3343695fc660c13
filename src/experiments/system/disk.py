"""Files that are whole or not there, and a disk that refuses them, in one line. Stdlib only."""

import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from experiments.system.processes import has_ended, mark

PARTIAL = ".partial"  # ends the name of a file that is being written
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNABLE_TO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of some network file systems
_TEMPORARY = re.compile(r"\..+\.(new-.+|[0-9a-z_]{8})")  # temporary_name's, and earlier ones


_GOES_ON = "and run the same command again: it goes on from the last checkpoint"
OTHER_FOLDER = "or name another folder"


@contextmanager
def explained(path: Path, then: str = _GOES_ON) -> Iterator[None]:
    """Turns the system's refusal to write `path` into a RuntimeError with path, reason, remedy.
    then: what to do besides.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            remedy = "free some space on that disk"
        elif error.errno in _DENIED:
            remedy = "make it writable"
        else:
            remedy = "correct that path"
        raise RuntimeError(
            f"{path} can't be written: {error.strerror or error}; {remedy}, {then}"
        ) from error


def check_writable(folder: Path, then: str = _GOES_ON) -> None:
    """Raises RuntimeError, as explained(), if no file can be made in a folder, which need not be
    there. Leaves nothing, and makes no folder of that name, which another command may be about to
    use.
    """
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    with (
        explained(folder, then),
        tempfile.TemporaryDirectory(prefix=".writable.", dir=there) as probe,
    ):
        tried = Path(probe) / folder.relative_to(there)
        tried.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=tried):
            pass


def check_file(path: Path, option: str) -> None:
    """Raises ValueError for a path that can name no file, and RuntimeError, as explained(), for one
    that can't be written at the end of a long command. Leaves nothing.
    """
    if path.is_dir():
        raise ValueError(f"{option} {path} is a folder; name a file")
    if not path.parent.is_dir():
        raise ValueError(f"{option} {path}: there is no folder {path.parent}; make it first")
    with explained(path, "or name another file"):
        if path.exists():
            path.open("ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()


def make_folder(folder: Path) -> None:
    """Makes a folder and those above it that are missing, and sees their names to the disk."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_file(path.parent)


def temporary_name(path: Path, what: str = "new") -> Path:
    """A name beside the path for what will have its name, or had it: .<name>.<what>-<mark>. The
    mark is this process's, so that remove_abandoned knows when nobody will use it.
    """
    return path.with_name(f".{path.name}.{what}-{mark()}")


def abandoned(path: Path, what: str = "new") -> list[Path]:
    """The files or folders of temporary_name's that processes of this machine left when they were
    killed.
    """
    start = f".{path.name}.{what}-"
    try:
        names = os.listdir(path.parent)  # noqa: PTH208
    except OSError:
        return []
    found = [name for name in names if name.startswith(start)]
    return [path.with_name(name) for name in found if has_ended(name.removeprefix(start))]


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to be filled, which then takes the place of what has this name: it is there
    whole, on the disk, or what was there before is. What killed writers of it have left goes; where
    a kill came between the two renames, the earlier folder is put back first.
    """
    partial, earlier = (abandoned(folder, what) for what in ("partial", "old"))
    if earlier and not folder.exists():
        with suppress(OSError):
            earlier.pop().rename(folder)
    for leftover in (*partial, *earlier):
        shutil.rmtree(leftover, ignore_errors=True)
    new, old = (temporary_name(folder, what) for what in ("partial", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        sync_tree(new)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
        sync_file(folder.parent)
    except BaseException:
        if old.exists() and not folder.exists():
            old.rename(folder)
        raise
    finally:
        for leftover in (new, old):
            shutil.rmtree(leftover, ignore_errors=True)


def refuse_links(folder: Path) -> None:
    """Raises RuntimeError if a name in a folder is a link to a file, in a sweep of somebody else's:
    what a run appends would go into a file of this user's.
    """
    with os.scandir(folder) as found:
        links = [one.path for one in found if one.is_symlink() and not one.is_dir()]
    if links:
        raise RuntimeError(
            f"{links[0]} is a link, and what a run writes would go to "
            f"{os.path.realpath(links[0])}; delete it"
        )


def write_text_atomically(
    path: Path, text: str, *, mode: int = 0o666, durable: bool = True
) -> None:
    """Writes under a temporary name in the same folder, then renames: whole or not at all. What
    killed writers of the same file have left goes.

    The folder must be there: that of a run which was moved away is not made again.

    mode: of the file, less what the umask takes. durable: on the disk before it has its name,
    and the name too before this returns, so that a power loss leaves the old file or the new one,
    and after this the new one. Raises RuntimeError as explained().
    """
    with explained(path):
        for leftover in abandoned(path) if durable else ():
            leftover.unlink(missing_ok=True)
        temporary = temporary_name(path)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        try:
            with os.fdopen(os.open(temporary, flags, mode), "w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                if durable:
                    sync(file.fileno())
            temporary.replace(path)
            if durable:
                sync_file(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def end_line(file: IO[bytes]) -> None:
    """Ends a last line that a kill or a full disk cut short, so that it stays alone. file: open as
    a+b, to have lines appended.
    """
    if file.tell():
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.write(b"\n")


def file_sha256(path: Path) -> str:
    """A file's SHA-256, 64 hex digits, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(descriptor: int) -> None:
    """Sees a file's content to the disk, where the file system can."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNABLE_TO_SYNC:
            raise


def sync_file(path: Path) -> None:
    """As sync, of whoever wrote it; of a folder, the names of its files."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except PermissionError:  # a folder that may be written and not read
        return
    try:
        sync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """As sync_file, of all files and folders in a folder, and its own list of them. Many at once: a
    disk takes what comes together in one go, a fifth of the time for a copy of the code.
    """
    paths = [path for path in folder.rglob("*") if not path.is_symlink()]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(sync_file, [*paths, folder]))


def remove_leftovers(folder: Path) -> None:
    """Removes temporary files of killed writers in a folder. Only for the folder's only writer."""
    for path in folder.iterdir():
        if path.name.endswith(PARTIAL) or _TEMPORARY.fullmatch(path.name):
            with suppress(OSError):  # a folder, or not ours: it is in nobody's way
                path.unlink()
