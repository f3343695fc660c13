"""What the data module asks of a source of text."""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal, Protocol

Split = Literal["train", "validation"]


class Corpus(Protocol):
    """A frozen dataclass; its fields are part of a run's identity and of the token cache's."""

    def documents(self, split: Split, cache: Path) -> Iterator[str]:
        """The texts of a split, always in the same order. `cache` may hold downloads."""
        ...
