"""Text by its lines: what makes documents of raw sources, and removes what they repeat."""

import hashlib
import html
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import TypeVar

Keyed = tuple[str, str]  # a document: its key, unique within its domain, and its text

PIECE = 8000  # characters: the longest document that is cut out of a longer text
SHORTEST_REPEAT = 40  # characters: shorter lines ("Required.") may repeat

T = TypeVar("T")

_BLANK_LINES = re.compile(r"\n{3,}")
_SPACES = re.compile(r"[^\S\n]+")
_BLOCK = re.compile(
    r"</?(?:p|br|li|ul|ol|dl|dt|dd|div|note|important|h[1-6]|table|tr|pre)\b[^>]*>", re.IGNORECASE
)
_TAG = re.compile(r"</?[A-Za-z][^>]*>|<!--.*?-->", re.DOTALL)


def tidy(text: str) -> str:
    """`text` with single spaces, no space at the ends of lines and no two blank lines in a row."""
    lines = (line.strip() for line in _SPACES.sub(" ", text).split("\n"))
    return _BLANK_LINES.sub("\n\n", "\n".join(lines)).strip()


def groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Consecutive groups of `size` items; the last may be smaller."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def pieces(key: str, text: str, size: int = PIECE) -> Iterator[Keyed]:
    """`text` cut into documents of at most `size` characters: KEY/0000, KEY/0001, ...

    The cuts are after the last line or sentence that fits whole, else anywhere.
    """
    start = n = 0
    while start < len(text):
        end = start + size
        if end < len(text):
            window = text[start:end]
            end = start + (max(window.rfind("\n"), window.rfind(". ")) + 1 or size)
        if piece := text[start:end].strip():
            yield f"{key}/{n:04d}", piece
            n += 1
        start = end


def in_pieces(documents: Iterable[Keyed]) -> Iterator[Keyed]:
    """Documents, each cut as pieces() cuts."""
    for key, text in documents:
        yield from pieces(key, text)


def plain(markup: str) -> str:
    """HTML's text: a line for each block, nothing of other tags."""
    # white space means nothing in HTML
    return html.unescape(_TAG.sub("", _BLOCK.sub("\n", re.sub(r"\s+", " ", markup))))


def without_repeats(documents: Iterable[Keyed]) -> Iterator[Keyed]:
    """Documents without lines that came before, in them or in an earlier one.

    Compared are lines of SHORTEST_REPEAT characters and more, exactly. A document with nothing
    left is left out.
    """
    seen: set[bytes] = set()
    for key, text in documents:
        kept = []
        for line in text.split("\n"):
            if len(line) >= SHORTEST_REPEAT:
                mark = hashlib.blake2b(line.encode(), digest_size=16).digest()
                if mark in seen:
                    continue
                seen.add(mark)
            kept.append(line)
        if rest := tidy("\n".join(kept)):
            yield key, rest
