"""Header of a gguf file, read by hand: each count is held against the bytes that are there.

The format is https://github.com/ggml-org/ggml/blob/master/docs/gguf.md: settings, then where each
tensor is, then the tensors, one after the other. The package `gguf` says which types they have; its
own reader believes every count, and takes minutes over one that is damaged.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.init.reading import from_extra
from experiments.system.regular_files import open_regular

_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 10: "Q", 11: "q", 12: "d"}
_BOOL, _TEXT, _LIST = 7, 8, 9
_MOST = 2**24  # values of all settings together; a vocabulary and its merges have a million
_DIMENSIONS = 4


@dataclass(frozen=True)
class Entry:
    """Where a tensor is in the file. kind: the package's name of its quantisation."""

    kind: Any
    offset: int
    n_bytes: int
    size: tuple[int, ...]  # outermost first, as torch has it


@dataclass(frozen=True)
class Header:
    """metadata: the settings by their full names. entries: the tensors by theirs."""

    metadata: Mapping[str, Any]
    entries: Mapping[str, Entry]


def read_gguf_header(path: Path) -> Header:
    """Raises ValueError for a file that is no gguf, is cut short, or whose parts don't fit."""
    with (
        open_regular(path) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return _header(_Cursor(content), from_extra("gguf", f"{path}"))


class _Cursor:
    """A place in the file, and how many values may still be read."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.at, self.left = content, 0, _MOST

    def take(self, n_bytes: int) -> bytes:
        if n_bytes > len(self.content) - self.at:
            raise ValueError(f"at byte {self.at} it names {n_bytes} bytes more than it has")
        self.at += n_bytes
        return self.content[self.at - n_bytes : self.at]

    def numbers(self, code: str, n: int = 1) -> tuple[Any, ...]:
        return struct.unpack(f"<{n}{code}", self.take(n * struct.calcsize(f"<{code}")))

    def count(self, what: str) -> int:
        """Number of values that follow, held to what a header may have."""
        (n,) = self.numbers("Q")
        self.left -= n
        if self.left < 0:
            raise ValueError(f"it names {n} {what}, more than any model has")
        return int(n)

    def text(self) -> str:
        (n,) = self.numbers("Q")
        return self.take(n).decode()  # a UnicodeDecodeError is a ValueError

    def values(self, kind: int, n: int) -> list[Any]:
        """n of a kind that is no list."""
        if kind in _NUMBERS:
            return list(self.numbers(_NUMBERS[kind], n))
        if kind == _TEXT:
            return [self.text() for _ in range(n)]
        if kind != _BOOL:
            raise ValueError(f"a setting is of kind {kind}, which is not known")
        found = self.take(n)
        if set(found) - {0, 1}:
            raise ValueError("a setting of true or false is neither")
        return [bool(value) for value in found]

    def setting(self) -> Any:
        (kind,) = self.numbers("I")
        if kind != _LIST:
            return self.values(kind, 1)[0]
        (of,) = self.numbers("I")
        return self.values(of, self.count("values in a list"))


def _header(cursor: _Cursor, package: Any) -> Header:
    magic, version = cursor.take(4), cursor.numbers("I")[0]
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r} and version {version}, not GGUF and 2 or 3")
    n_tensors, n_settings = cursor.count("tensors"), cursor.count("settings")
    metadata: dict[str, Any] = {}
    for _ in range(n_settings):
        _put(metadata, cursor.text(), cursor.setting())
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or not 0 < alignment <= 2**20 or alignment & (alignment - 1):
        raise ValueError(f"general.alignment={shown(alignment)} is no power of two")
    entries: dict[str, Entry] = {}
    for _ in range(n_tensors):
        _put(entries, cursor.text(), _entry(cursor, package))
    return Header(metadata, _placed(entries, cursor.at, len(cursor.content), alignment))


def _put(found: dict[str, Any], name: str, value: Any) -> None:
    if not name.isprintable() or not name.isascii() or name in found:
        raise ValueError(f"the name {shown(name[:80])} occurs twice, or is none")
    found[name] = value


def _entry(cursor: _Cursor, package: Any) -> Entry:
    """Its offset is from the first tensor."""
    (n,) = cursor.numbers("I")
    if not 1 <= n <= _DIMENSIONS:
        raise ValueError(f"a tensor has {n} dimensions")
    size = cursor.numbers("Q", n)
    (kind,), (offset,) = cursor.numbers("I"), cursor.numbers("Q")
    kind = package.GGMLQuantizationType(kind)  # ValueError: of none
    block, n_bytes = package.GGML_QUANT_SIZES[kind]
    if size[0] % block or not 0 < math.prod(size) < 2**60:
        raise ValueError(f"a tensor of {kind.name} has size {size}")
    return Entry(kind, offset, math.prod(size) // block * n_bytes, size[::-1])


def _placed(
    entries: Mapping[str, Entry], at: int, n_bytes: int, alignment: int
) -> dict[str, Entry]:
    """With offsets from the file's start. Raises ValueError unless the tensors fill the rest of the
    file, each at the first multiple of the alignment after the one before.
    """
    end = _up(at, alignment)
    first, placed = end, {}
    for name, entry in entries.items():
        start = first + entry.offset
        if start != _up(end, alignment):
            raise ValueError(f"{name} is at byte {start}, and the tensor before ends at {end}")
        end = start + entry.n_bytes
        placed[name] = Entry(entry.kind, start, entry.n_bytes, entry.size)
    if not end <= n_bytes <= _up(end, alignment):
        raise ValueError(f"its tensors end at byte {end}, and it at {n_bytes}")
    return placed


def _up(place: int, alignment: int) -> int:
    """First multiple at or after a place."""
    return -(-place // alignment) * alignment
