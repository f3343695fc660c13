"""Interface of a source of text."""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol, runtime_checkable

TRAIN, VALIDATION = "train", "validation"


class Corpus(Protocol):
    """A frozen dataclass; its identity is part of a run's identity and of the token cache's.

    Its fields are its identity, but for those that fields.added declares and that are at their
    default; unless it has a method `identity() -> dict` that says better what the text depends
    on (the content of a folder, not its path). With an attribute `splits`, the names of those that
    it has, another is refused before anything is read.
    """

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Texts of a split, always in the same order. `cache` may hold downloads.

        Raises ValueError for a split it does not have, naming those that it has, and for text
        that can't be read, naming the file and the place.
        """
        ...


@runtime_checkable
class ShardedCorpus(Corpus, Protocol):
    """A corpus of files that can be read separately, so that training can stream from it."""

    def n_shards(self, split: str, cache: Path) -> int:
        """Number of files of a split."""
        ...

    def shard_documents(self, split: str, shard: int, start: int, cache: Path) -> Iterator[str]:
        """Texts of one file from its document number `start` on."""
        ...


@runtime_checkable
class DomainCorpus(Corpus, Protocol):
    """A corpus of several domains that can say which one each document is of."""

    def document_domains(self, split: str, cache: Path) -> Iterator[str]:
        """Domain of each text of documents(split, cache), in its order."""
        ...


def check_split(split: str, known: Collection[str], where: str = "split") -> None:
    """Raises ValueError for a split that is none of these. where: its setting."""
    if split not in known:
        raise ValueError(f"{where}={split!r} is not one of {', '.join(known)}")


def find_name(corpus: Corpus) -> str:
    """A corpus in messages: its kind, and the domain, dataset or folder that it is of."""
    which = getattr(corpus, "domain", None) or getattr(corpus, "path", None)
    return type(corpus).__name__ + (f" {which}" if isinstance(which, str) else "")
