"""Readers of weights share this: packages of the extra `hf`, hashes, messages."""

import functools
import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.system.disk import file_sha256 as _digest
from experiments.system.version import install


def from_extra(package: str, purpose: object) -> Any:
    """Imports the module. Raises ValueError, naming the extra, where it is not installed.

    purpose: what needs it, as the message begins.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ValueError(
            f"{purpose} needs the package {package.partition('.')[0]} ({error}): {install('hf')}"
        ) from None


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Puts the path before the message of a ValueError."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def stamp(path: Path) -> tuple[Path, int, int]:
    """A file's stamp, which changes when it does. Raises ValueError if it is not there."""
    try:
        stat = path.stat()
    except OSError as error:
        raise ValueError(f"{path} can't be read: {error.strerror}") from None
    return path, stat.st_size, stat.st_mtime_ns


def file_sha256(path: Path) -> str:
    """64 hex digits; computed once as long as the file stays."""
    return _sha256(*stamp(path))


@functools.lru_cache(maxsize=32)
def _sha256(path: Path, size: int, changed: int) -> str:
    return _digest(path)
