"""All that is written, made and removed: whole or not there, and through no link. Stdlib only.

A folder of results may come from anybody, and git and tar bring links. So each of these functions
refuses a path that has a link in it, wherever: what is below it is another folder than it says. A
file with a second name (a hard link) is replaced, and never written into.
Links of the user's own, such as results/ on a scratch disk, are followed once, where a command is
given its folder (followed). No other module writes by other means (tests/system/test_writers.py).
It is of folders as they were brought: who can change one while a command runs needs no link.
"""

import errno
import hashlib
import os
import re
import shutil
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

from experiments.system.processes import has_ended, mark
from experiments.system.regular_files import open_regular

PARTIAL = ".partial"  # ends the name of a file that is being written
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS)
_UNABLE_TO_SYNC = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS)  # of some network file systems
_TEMPORARY = re.compile(r"\..+\.(new-.+|[0-9a-z_]{8})")  # temporary_name's, and earlier ones


_BLOCK = 4096  # bytes, which a full disk refuses
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


def followed(path: Path) -> Path:
    """A path that the user gave, without links: through those that it has, which are the user's
    own. Where it has none, the same path.

    Of the folder of all results, of a cache, and of a folder that a command is told to write.
    """
    real = os.path.realpath(path)
    return path if real == os.path.abspath(path) else Path(real)  # noqa: PTH100  (of links, too)


def reached(path: Path) -> Path:
    """As followed, but for the path's own name: of a sweep, a run or a file. A link of that name
    may be a stranger's, and is refused, or replaced by a whole file or folder.
    """
    return followed(path.parent) / path.name


def refuse_links(path: Path) -> None:
    """Raises RuntimeError, with the remedy, if a path is a link, or leads through one. A lstat for
    each folder on the way.
    """
    if os.path.realpath(path) == (way := os.path.abspath(path)):  # noqa: PTH100
        return
    link = next((p for p in (*reversed(Path(way).parents), Path(way)) if p.is_symlink()), path)
    itself = ", or name that folder itself" if link.is_dir() else ""
    raise RuntimeError(
        f"{link} is a link, and what is written there would go to {os.path.realpath(link)}; "
        f"delete it{itself}"
    )


def refuse_links_in(folder: Path) -> None:
    """Raises RuntimeError if a name in a folder is a link that leads out of it, or the folder is
    one. What is written refuses it too, and this does so before the work.
    """
    refuse_links(folder)
    real = Path(os.path.realpath(folder))
    with os.scandir(real) as found:
        links = [Path(one.path) for one in found if one.is_symlink()]
    for link in links:
        if not Path(os.path.realpath(link)).is_relative_to(real):
            refuse_links(link)


def _refuse_second_name(path: Path) -> None:
    """Raises RuntimeError for a file that is there and has another name too, as tar brings them."""
    with suppress(OSError):
        found = path.lstat()
        if stat.S_ISREG(found.st_mode) and found.st_nlink > 1:
            raise RuntimeError(
                f"{path} is a hard link: its file has {found.st_nlink} names, and what is written "
                "there would be in all of them; put a copy in its place (cp, then mv), or delete it"
            )


def check_writable(folder: Path, then: str = _GOES_ON) -> None:
    """Raises RuntimeError, as explained(), if no file can be made in a folder, which need not be
    there, or for a link on the way. Makes no name, which a kill would leave: another command may be
    about to use the folder.
    """
    refuse_links(folder)
    there = next(path for path in (folder, *folder.parents) if os.path.lexists(path))
    with explained(folder, then):
        with suppress(FileNotFoundError):
            folder.stat()  # for a name that is too long, or is below a file
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(bytes(_BLOCK))
            file.flush()


def opened(
    path: Path, mode: str = "wb", *, permissions: int = 0o666, create: bool = False, **how: Any
) -> IO[Any]:
    """open() for writing or appending. permissions: of a new file, less what the umask takes.
    create: with r+, makes one that is not there. how: encoding and newline.
    """
    refuse_links(path)
    _refuse_second_name(path)
    own = os.O_NOFOLLOW | os.O_NONBLOCK  # a pipe with no reader is an error, and not waited for

    def open_itself(name: str, flags: int) -> int:
        return os.open(name, flags | own | os.O_CREAT * create, permissions)

    return open(path, mode, opener=open_itself, **how)


def write_text(path: Path, text: str) -> None:
    """A new text in a file: of a folder that is not yet whole. Else as write_text_atomically."""
    with opened(path, "w", encoding="utf-8") as file:
        file.write(text)


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
            opened(reached(path.absolute()), "ab").close()
        else:
            tempfile.TemporaryFile(dir=path.parent).close()


def make_folder(folder: Path, permissions: int = 0o777) -> None:
    """Makes a folder and those above it that are missing, and sees their names to the disk.
    permissions: of the folder, less what the umask takes.
    """
    refuse_links(folder)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(permissions, parents=True, exist_ok=True)
    for path in reversed(missing):
        sync_file(path.parent)


def rename(path: Path, new: Path) -> Path:
    """Renames a file or folder, in the place of a file that has the new name; a link stays one.
    Returns the new path.
    """
    for folder in {path.parent, new.parent}:
        refuse_links(folder)
    return path.replace(new)


def remove(path: Path) -> None:
    """Removes a file, or a link itself, if it is there."""
    refuse_links(path.parent)
    path.unlink(missing_ok=True)


def remove_tree(folder: Path) -> None:
    """Removes a folder and what is in it, or a file of its name, as far as the system lets it.
    No link in it is followed.
    """
    refuse_links(folder.parent)
    if folder.is_symlink() or not folder.is_dir():
        with suppress(OSError):
            folder.unlink()
    else:
        shutil.rmtree(folder, ignore_errors=True)


def remove_empty(folder: Path) -> None:
    """Removes a folder, unless something is in it."""
    refuse_links(folder.parent)
    with suppress(OSError):
        folder.rmdir()


def copy_file(path: Path, new: Path) -> None:
    """A copy of a file, with its permissions."""
    with open_regular(path) as source, opened(new) as target:
        shutil.copyfileobj(source, target)
    new.chmod(stat.S_IMODE(path.stat().st_mode))


def second_name(path: Path, new: Path) -> None:
    """A new name of the same file, or a copy where the file system has no such names."""
    refuse_links(new)
    try:
        os.link(path, new, follow_symlinks=False)
    except OSError:
        copy_file(path, new)


def temporary_name(path: Path, what: str = "new") -> Path:
    """A name beside the path for what will have its name, or had it: .<name>.<what>-<mark>. The
    mark is this process's, so that remove_abandoned knows when nobody will use it.
    """
    return path.with_name(f".{path.name}.{what}-{mark()}")


def abandoned(path: Path, what: str = "new") -> list[Path]:
    """Files or folders of temporary_name's that processes of this machine left when they were
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
def whole_file(
    path: Path, then: str = _GOES_ON, *, mode: int = 0o666, durable: bool = True
) -> Iterator[IO[bytes]]:
    """A new file under a temporary name in the same folder, which then gets the path's: whole or
    not at all. What killed writers of the same file have left goes.

    The folder must be there: that of a run which was moved away is not made again.

    mode: of the file, less what the umask takes. durable: on the disk before it has its name,
    and the name too before this returns, so that a power loss leaves the old file or the new one,
    and after this the new one. Raises RuntimeError as explained(), of which `then` is.
    """
    with explained(path, then):
        for leftover in abandoned(path) if durable else ():
            remove(leftover)
        temporary = temporary_name(path)
        try:
            with opened(temporary, "xb", permissions=mode) as file:
                yield file
                file.flush()
                if durable:
                    sync(file.fileno())
            rename(temporary, path)
            if durable:
                sync_file(path.parent)
        except BaseException:
            remove(temporary)
            raise


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """A new folder to be filled, which then takes the place of what has this name: it is there
    whole, on the disk, or what was there before is. What killed writers of it have left goes; where
    a kill came between the two renames, the earlier folder is put back first.
    """
    partial, earlier = (abandoned(folder, what) for what in ("partial", "old"))
    if earlier and not folder.exists():
        with suppress(OSError):
            rename(earlier.pop(), folder)
    for leftover in (*partial, *earlier):
        remove_tree(leftover)
    new, old = (temporary_name(folder, what) for what in ("partial", "old"))
    try:
        make_folder(new)
        yield new
        sync_tree(new)
        if folder.exists():
            rename(folder, old)
        rename(new, folder)
        sync_file(folder.parent)
    except BaseException:
        if old.exists() and not folder.exists():
            rename(old, folder)
        raise
    finally:
        for leftover in (new, old):
            remove_tree(leftover)


def write_text_atomically(
    path: Path, text: str, *, mode: int = 0o666, durable: bool = True, then: str = _GOES_ON
) -> None:
    """As whole_file, of a text."""
    with whole_file(path, then, mode=mode, durable=durable) as file:
        file.write(text.encode())


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
    with open_regular(path) as file:
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
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe too
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
                remove(path)
