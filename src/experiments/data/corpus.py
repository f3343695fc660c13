"""The interface of a source of text."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from experiments.config.fields import settings

TRAIN, VALIDATION = "train", "validation"


class Corpus(Protocol):
    """A frozen dataclass; its identity is part of a run's identity and of the token cache's.

    Its fields are its identity, but for those that fields.added declares and that are at their
    default; unless it has a method `identity() -> dict` that says better what the text depends
    on (the content of a folder, not its path).
    """

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """The texts of a split, always in the same order. `cache` may hold downloads.

        Raises ValueError for a split it does not have, naming those that it has, and for text
        that can't be read, naming the file and the place.
        """
        ...


@runtime_checkable
class ShardedCorpus(Corpus, Protocol):
    """A corpus of files that can be read separately, so that training can stream from it."""

    def n_shards(self, split: str, cache: Path) -> int:
        """The number of files of a split."""
        ...

    def shard_documents(self, split: str, shard: int, start: int, cache: Path) -> Iterator[str]:
        """The texts of one file from its document number `start` on."""
        ...


def name_of(corpus: Corpus) -> str:
    """A corpus in messages: its kind, and the domain, dataset or folder that it is of."""
    which = getattr(corpus, "domain", None) or getattr(corpus, "path", None)
    return type(corpus).__name__ + (f" {which}" if isinstance(which, str) else "")


def identity(part: Any) -> dict[str, Any]:
    """The settings that determine a corpus's text or a tokenizer's ids, as plain values."""
    assert is_dataclass(part)
    assert not isinstance(part, type)
    own = getattr(part, "identity", None)
    return {"kind": type(part).__name__, **(own() if own is not None else settings(part))}


def digest(values: Any) -> str:
    """12 hex digits that stand for plain values."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]
