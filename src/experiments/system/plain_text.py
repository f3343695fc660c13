"""Text of anybody's on a terminal: what would move its cursor, colour it or turn it round is shown
as Python writes it, \\x1b. Standard library only.
"""

import re
from collections.abc import Mapping
from typing import Any

# C0 and C1 (Unicode 16, §23.1), line separators, overrides of direction, and halves of characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# the same in JSON, as escapes and as UTF-8; not a line break nor a tab, which JSON writes \n and \t
_IN_JSON = re.compile(
    rb"\\u(?:00[01789]|20[26]|[dD][89a-fA-F])|\\[bfr]|\x7f"
    rb"|\xc2[\x80-\x9f]|\xe2(?:\x80[\xa8-\xae]|\x81[\xa6-\xa9])|\xed[\xa0-\xbf]"
)
_MARKS = (b"\\", b"\x7f", b"\xc2", b"\xe2", b"\xed")  # one of these begins each


def printable(text: str, keep: str = "") -> str:
    """The text with escapes for control characters; those of `keep` stay."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def printable_values(values: Any) -> Any:
    """Plain values with all their texts, keys too, printable; line breaks and tabs stay."""
    if isinstance(values, str):
        return printable(values, "\n\t")
    if isinstance(values, Mapping):
        return {printable_values(key): printable_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [printable_values(value) for value in values]
    return values


def may_have_controls(content: bytes) -> bool:
    """Whether some text of a JSON text may: quick, so that only those are walked through."""
    marks = any(mark in content for mark in _MARKS)  # a hundredth of the pattern's time
    return marks and _IN_JSON.search(content) is not None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
