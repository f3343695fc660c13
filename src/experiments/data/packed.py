"""Tokens on disk: a split's documents, each with an end-of-text id after it, in shards."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np

INDEX_NAME = "index.json"


class Tokens(Protocol):
    """A long row of tokens that can be read in slices."""

    def __len__(self) -> int: ...

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens [start, stop)."""
        ...


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
    """The ids in the smallest dtype of the vocabulary. Raises ValueError for an id outside it."""
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

    Raises ValueError if the index or a shard is missing, has another length than it was written
    with, or holds ids wider than its dtype.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        index = _read_index(folder)
        self.vocab_size: int = index["vocab_size"]
        self.dtype = np.dtype(index["dtype"])
        self.shards = tuple(Shard(**values) for values in index["shards"])
        self.n_tokens = sum(shard.n_tokens for shard in self.shards)
        self.n_documents = sum(shard.n_documents for shard in self.shards)
        self.n_bytes = sum(shard.n_bytes for shard in self.shards)
        if self.vocab_size > 2 ** (8 * self.dtype.itemsize):
            raise ValueError(
                f"{folder}: a vocabulary of {self.vocab_size} does not fit {self.dtype.name}; "
                "delete the folder to make it again"
            )
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

    def read(self, start: int, stop: int) -> np.ndarray:
        """The tokens [start, stop), (stop - start,), across shards if need be."""
        if not 0 <= start <= stop <= self.n_tokens:
            raise IndexError(f"[{start}, {stop}) is outside 0 to {self.n_tokens} tokens")
        first = int(np.searchsorted(self._ends, start, side="right"))
        parts = []
        while start < stop:
            begin = int(self._ends[first]) - self.shards[first].n_tokens
            end = min(stop, int(self._ends[first]))
            parts.append(self._maps[first][start - begin : end - begin])
            start, first = end, first + 1
        return parts[0] if len(parts) == 1 else np.concatenate(parts or [self._maps[0][:0]])

    def verify(self) -> None:
        """Reads everything. Raises ValueError for a shard whose bytes are not those written."""
        for shard in self.shards:
            if file_sha256(self.folder / shard.file) != shard.sha256:
                raise ValueError(
                    f"{self.folder / shard.file} is damaged: its sha256 is not the index's; "
                    f"delete {self.folder} to make it again"
                )

    @cached_property
    def _ends(self) -> np.ndarray:
        return np.cumsum([shard.n_tokens for shard in self.shards])

    @cached_property
    def _maps(self) -> list[np.ndarray]:
        return [np.memmap(self.folder / s.file, self.dtype, "r") for s in self.shards]


def check_shard(folder: Path, shard: Shard, dtype: np.dtype[Any]) -> None:
    """Raises ValueError if the shard's file is missing or has not its length."""
    path = folder / shard.file
    size = path.stat().st_size if path.exists() else None
    if size != shard.n_tokens * dtype.itemsize:
        what = "is missing" if size is None else f"has {size} bytes"
        raise ValueError(
            f"{path} {what}, and the index says {shard.n_tokens} {dtype.name} tokens; "
            f"delete {folder} to make it again"
        )


def write_index(folder: Path, vocab_size: int, shards: Iterable[Shard]) -> None:
    """The last file of a packed folder."""
    index = {
        "vocab_size": vocab_size,
        "dtype": token_dtype(vocab_size).str,
        "shards": [asdict(shard) for shard in shards],
    }
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")


def file_sha256(path: Path) -> str:
    """Of a file, without holding it in memory."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_index(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / INDEX_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{folder / INDEX_NAME} can't be read ({error}); delete {folder} to make it again"
        ) from None


def windows_of(tokens: Tokens, starts: Iterable[int], length: int) -> np.ndarray:
    """The slices of `length` tokens from each start on, (len(starts), length)."""
    return np.stack([tokens.read(int(start), int(start) + length) for start in starts])
