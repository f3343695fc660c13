"""Files that anybody may have put there: regular ones alone are opened, up to a size.

A pipe or a terminal keeps its reader waiting, a device need not end, and to open some acts. A link
to a regular file is read as the file. Standard library only.
"""

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

MOST = 2**30  # bytes of a file that is read into memory; a manifest of 100,000 points has 300 MB
_WEIGHTS = 2**40  # bytes of one that is read in parts, or by a library
_KINDS = (
    (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"), (stat.S_ISBLK, "a device"),
)  # fmt: skip


class FileRefusedError(OSError, ValueError):
    """A file that is not read, for its kind or its size. Whoever explains a file that the system
    refuses, or one that holds what it can't, explains this one too: strerror has the reason.
    """

    def __str__(self) -> str:
        return f"{self.filename}: {self.strerror}"


def open_regular(path: Path, most: int = _WEIGHTS, *, follow: bool = True) -> BufferedReader:
    """File, to be read. most: bytes. follow: links; else one raises OSError.

    Raises FileRefusedError for what is no regular file and for one with more bytes, and OSError for
    one that the system refuses, a folder among them.
    """
    _check(path.stat(follow_symlinks=follow), path, most)
    flags = os.O_NONBLOCK | os.O_NOCTTY | (0 if follow else os.O_NOFOLLOW)
    file = open(path, "rb", opener=lambda name, own: os.open(name, own | flags))  # noqa: SIM115
    try:
        _check(os.fstat(file.fileno()), path, most)  # another may have its name by now
    except BaseException:
        file.close()
        raise
    return file


def read_regular(path: Path, most: int = MOST) -> bytes:
    """Content of a file of at most so many bytes. Raises as open_regular."""
    with open_regular(path, most) as file:
        content = file.read(os.fstat(file.fileno()).st_size + 1)
        while more := file.read(2**20):  # what is written meanwhile, and of files without a size
            content += more
            if len(content) > most:
                raise _refused(path, _too_large(len(content), most))
    return content


def read_regular_text(path: Path, errors: str = "strict") -> str:
    """As Path.read_text, of UTF-8. Raises as open_regular, and UnicodeDecodeError."""
    return read_regular(path).decode("utf-8", errors).replace("\r\n", "\n").replace("\r", "\n")


def regular(path: Path, most: int = _WEIGHTS) -> Path:
    """Path, for a library that opens it by its name. Raises as open_regular."""
    _check(path.stat(), path, most)
    return path


def _check(found: os.stat_result, path: Path, most: int) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if stat.S_ISLNK(found.st_mode):
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
    if not stat.S_ISREG(found.st_mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(found.st_mode)), "special")
        remedy = "delete it, or put a file there"
        raise _refused(path, f"it is {kind}, and only regular files are read; {remedy}")
    if found.st_size > most:
        raise _refused(path, _too_large(found.st_size, most))


def _too_large(size: int, most: int) -> str:
    return f"it has {size:,} bytes, and {most:,} are the most that are read; name another file"


def _refused(path: Path, why: str) -> FileRefusedError:
    return FileRefusedError(errno.EINVAL, why, str(path))
