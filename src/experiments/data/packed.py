"""Tokens on disk: a split's documents, each with an end-of-text id after it, in shards.

Before a run's first step every shard that it reads is hashed and compared with the index. That it
was, is kept beside the folder, in .<folder>.verified, so that the next run, rank or sweep of a big
corpus need not read it all again. The stamp holds the hash of the index, and the size, times of
change and inode of each shard. Any write to a shard, a copy of it and a move to another disk change
one of these, and all is read again; and so it is after a week, because a stamp can't see a disk
that returns other bytes for a file that nobody wrote to. Where the cache can't be written there is
no stamp, and every run reads everything.
"""

import hashlib
import json
import time
from bisect import bisect_right
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from experiments.data.checked import read_checked, write_checked
from experiments.records.files import DamagedError
from experiments.system.disk import file_sha256, reached, write_text_atomically
from experiments.system.made_once import locked

INDEX_NAME = "index.json"
_DAYS = 7  # a stamp holds
_LARGE = 10**9  # bytes, above which the wait is worth a line


class Tokens(Protocol):
    """A long row of tokens that is read in slices [start:stop]; an array is one."""

    def __len__(self) -> int: ...
    def __getitem__(self, part: slice, /) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One file of raw little-endian tokens; n_bytes of UTF-8 are what they were made of."""

    file: str
    n_tokens: int
    n_documents: int
    n_bytes: int
    sha256: str


def token_dtype(vocab_size: int) -> np.dtype[Any]:
    """uint16 where every id fits it, else uint32."""
    return np.dtype("<u2" if vocab_size <= 2**16 else "<u4")


def as_tokens(ids: Iterable[int] | np.ndarray, vocab_size: int) -> np.ndarray:
    """Ids in the smallest dtype of the vocabulary. Raises ValueError for an id outside it."""
    array = np.asarray(ids, dtype=np.int64)
    if array.size and not 0 <= array.min() <= array.max() < vocab_size:
        bad = int(array.max() if array.max() >= vocab_size else array.min())
        raise ValueError(
            f"token id {bad} is outside the vocabulary of {vocab_size} entries (0 to "
            f"{vocab_size - 1}); the tokenizer and its vocab_size don't belong together"
        )
    return array.astype(token_dtype(vocab_size))


class PackedText:
    """A tokenized split in a folder: an index and memory-mapped shards. Satisfies Tokens.

    Raises DamagedError if the index or a shard is missing, is not as it was written, or has another
    length. What the shards hold is checked by verify() alone.
    tokenizer_sha256: of the tokenizer that made them; None in folders of older versions.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = _read_index(folder)
        self.vocab_size: int = index["vocab_size"]
        self.dtype = np.dtype(index["dtype"])
        self.shards: tuple[Shard, ...] = index["shards"]
        self.tokenizer_sha256: str | None = index.get("tokenizer_sha256")
        self.n_tokens = sum(shard.n_tokens for shard in self.shards)
        self.n_documents = sum(shard.n_documents for shard in self.shards)
        self.n_bytes = sum(shard.n_bytes for shard in self.shards)
        if self.dtype != token_dtype(self.vocab_size):
            why = f"a vocabulary of {self.vocab_size} is not kept as {self.dtype.name}"
            raise DamagedError(folder / INDEX_NAME, why, _remedy(folder))
        for shard in self.shards:
            check_shard(folder, shard, self.dtype)

    @property
    def digest(self) -> str:
        """sha256 over the shards' own, in order: the same text and tokenizer give the same."""
        return hashlib.sha256("".join(s.sha256 for s in self.shards).encode()).hexdigest()

    def __len__(self) -> int:
        return self.n_tokens

    def __reduce__(self) -> Any:
        return PackedText, (self.folder,)  # a worker maps the files itself

    def __getitem__(self, part: slice, /) -> np.ndarray:
        """Tokens [start:stop], (stop - start,), across shards if need be. Raises IndexError for
        places that are not there.
        """
        start, stop = part.start, part.stop
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"[{start}, {stop}) is outside 0 to {self.n_tokens} tokens")
        first = bisect_right(self._ends, start)
        parts = []
        while start < stop:
            begin = self._ends[first] - self.shards[first].n_tokens
            end = min(stop, self._ends[first])
            parts.append(self._maps[first][start - begin : end - begin])
            start, first = end, first + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self._maps[0][:0]])

    def verify(self) -> None:
        """Reads everything. Raises DamagedError for a shard whose bytes are not those written."""
        for shard in self.shards:
            path = self.folder / shard.file
            try:
                found = file_sha256(path)
            except OSError as error:
                why = f"it can't be read: {error.strerror}"
                raise DamagedError(path, why, _remedy(self.folder)) from None
            if found != shard.sha256:
                why = "its sha256 is not the one in the index"
                raise DamagedError(path, why, _remedy(self.folder))

    @cached_property
    def _ends(self) -> list[int]:
        return list(accumulate(shard.n_tokens for shard in self.shards))

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        # as plain arrays: a slice of a memmap takes ten times as long as one of an array
        return [np.asarray(np.memmap(self.folder / s.file, self.dtype, "r")) for s in self.shards]


def check_shard(folder: Path, shard: Shard, dtype: np.dtype[Any]) -> None:
    """Raises ValueError if the shard's file is missing or has not its length."""
    path = folder / shard.file
    size = path.stat().st_size if path.exists() else None
    if size != shard.n_tokens * dtype.itemsize:
        what = "it is missing" if size is None else f"it has {size} bytes"
        why = f"{what}, and the index says {shard.n_tokens} {dtype.name} tokens"
        raise DamagedError(path, why, _remedy(folder))


def write_index(
    folder: Path, vocab_size: int, shards: Iterable[Shard], tokenizer_sha256: str | None = None
) -> None:
    """Last file of a packed folder."""
    index = {
        "vocab_size": vocab_size,
        "dtype": token_dtype(vocab_size).str,
        "tokenizer_sha256": tokenizer_sha256,
        "shards": [asdict(shard) for shard in shards],
    }
    write_checked(folder / INDEX_NAME, index)


def _read_index(folder: Path) -> dict[str, Any]:
    """Index, with its shards read."""
    path, remedy = folder / INDEX_NAME, _remedy(folder)
    index = read_checked(path, {"vocab_size": int, "dtype": str, "shards": list}, remedy)
    try:
        index["shards"] = tuple(_read_shard(values) for values in index["shards"])
        np.dtype(index["dtype"])
    except (ValueError, TypeError) as error:
        raise DamagedError(path, str(error), remedy) from None
    return index


def _read_shard(values: dict[str, Any]) -> Shard:
    shard = Shard(**values)
    counts = (shard.n_tokens, shard.n_documents, shard.n_bytes)
    if not all(type(n) is int and n >= 0 for n in counts) or "/" in shard.file:
        raise ValueError(f"a shard of it is {str(values)[:100]}")
    return shard


def _remedy(folder: Path) -> str:
    return f"delete {folder}, and the same command makes it again"


def cut_windows(tokens: Tokens, starts: Iterable[int], length: int) -> np.ndarray:
    """Slices of `length` tokens from each start on, (len(starts), length)."""
    return np.stack([tokens[int(start) : int(start) + length] for start in starts])


def open_verified(folder: Path) -> PackedText:
    """Tokens, whole. A second process waits for the first, and then finds its stamp.

    Raises DamagedError, naming the file, for an index or a shard that is not as it was written.
    """
    text = PackedText(folder)
    if _is_stamped(text):
        return text
    with ExitStack() as stack:
        with suppress(OSError):  # a cache that can't be written
            stack.enter_context(locked(folder))
        if not _is_stamped(text):
            n_bytes = text.n_tokens * text.dtype.itemsize
            if n_bytes > _LARGE:
                print(f"checking {n_bytes / 1e9:.1f} GB of tokens in {folder}", flush=True)
            facts = _facts(text)  # of before: a write meanwhile is seen
            text.verify()
            stamp(text, facts)
    return text


def stamp(text: PackedText, facts: dict[str, Any] | None = None) -> None:
    """Notes that the tokens were found whole. facts: of the files, before they were read."""
    content = {"time": time.time(), **(facts or _facts(text))}
    with suppress(RuntimeError):  # the next one reads them again
        write_text_atomically(reached(_stamp_path(text)), json.dumps(content) + "\n")


def _is_stamped(text: PackedText) -> bool:
    try:
        content = json.loads(_stamp_path(text).read_bytes())
        age = time.time() - content.pop("time")
        return 0 <= age < _DAYS * 24 * 3600 and content == _facts(text)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False  # none, or none that can be believed


def _facts(text: PackedText) -> dict[str, Any]:
    """A file's facts, which change if it does."""
    stats = {shard.file: (text.folder / shard.file).stat() for shard in text.shards}
    return {
        "index": file_sha256(text.folder / INDEX_NAME),
        "shards": {
            file: [s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino] for file, s in stats.items()
        },
    }


def _stamp_path(text: PackedText) -> Path:
    return text.folder.with_name(f".{text.folder.name}.verified")
