"""Text of anybody's on a terminal: what would move its cursor, colour it or turn it round is shown
as Python writes it, \\x1b. Whatever a command prints goes through `visible`. Standard library only.
"""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TextIO

# C0 and C1 (Unicode 16, §23.1), line separators, overrides of direction, and halves of characters
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# the same in JSON, as escapes and as UTF-8; not a line break nor a tab, which JSON writes \n and \t
_IN_JSON = re.compile(
    rb"\\u(?:00[01789]|20[26]|[dD][89a-fA-F])|\\[bfr]|\x7f"
    rb"|\xc2[\x80-\x9f]|\xe2(?:\x80[\xa8-\xae]|\x81[\xa6-\xa9])|\xed[\xa0-\xbf]"
)
_MARKS = (b"\\", b"\x7f", b"\xc2", b"\xe2", b"\xed")  # one of these begins each


_LINES = "\n\t"
_MOST = 2000  # characters of an error


def printable(text: str, keep: str = "") -> str:
    """Text with escapes for control characters; those of `keep` stay."""
    return _CONTROL.sub(lambda found: found[0] if found[0] in keep else _escaped(found[0]), text)


def printable_values(values: Any) -> Any:
    """Plain values with all their texts, keys too, printable; line breaks and tabs stay."""
    if isinstance(values, str):
        return printable(values, _LINES)
    if isinstance(values, Mapping):
        return {printable_values(key): printable_values(value) for key, value in values.items()}
    if isinstance(values, list):
        return [printable_values(value) for value in values]
    return values


def shortened(text: str, most: int = _MOST) -> str:
    """An error, or a value in one, without the middle of what no screen can show. Its end has the
    remedy.
    """
    if len(text) <= most:
        return text
    end = most // 4
    return f"{text[: most - end]} [... {len(text) - most:,} characters ...] {text[-end:]}"


@contextmanager
def visible() -> Iterator[None]:
    """Within it, no control character is printed but line breaks, tabs, and what begins or ends a
    line that is written over. After an error that nobody explains it stays, for Python prints the
    traceback then.
    """
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Visible(raw(stream)) for stream in kept)
    try:
        yield
    except Exception:
        raise
    except BaseException:
        sys.stdout, sys.stderr = kept
        raise
    sys.stdout, sys.stderr = kept


def raw(stream: TextIO) -> TextIO:
    """Stream itself, for a command's own movements of the cursor."""
    return stream.stream if isinstance(stream, _Visible) else stream


class _Visible:
    """A stream of text whose control characters are escapes."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Number of characters that were given."""
        line = text.strip("\r")  # a bar of progress goes back to the start of its line
        start = len(text) - len(text.lstrip("\r"))
        end = text[start + len(line) :]
        self.stream.write(f"{text[:start]}{printable(line, _LINES)}{end}")
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def may_have_controls(content: bytes) -> bool:
    """Whether some text of a JSON text may: quick, so that only those are walked through."""
    marks = any(mark in content for mark in _MARKS)  # a hundredth of the pattern's time
    return marks and _IN_JSON.search(content) is not None


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode()
