"""Text in columns, for people at a terminal, and in Markdown. Standard library only."""

import textwrap
from collections.abc import Sequence

from experiments.system.plain_text import printable


def aligned(rows: Sequence[Sequence[str]], n_left: int = 1) -> list[str]:
    """Rows as lines; the first n_left columns are left-aligned, the others right-aligned.

    A cell is on its line, and without control characters.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return [
        "  ".join(
            cell.ljust(width) if i < n_left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in rows
    ]


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines of a Markdown table; the first is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return [lines[0], f"|{'---|' * len(rows[0])}", *lines[1:]]


def filled(text: str, indent: str = "") -> str:
    """A paragraph in lines of up to 100 characters; indent: of all but the first."""
    return textwrap.fill(text, 100, subsequent_indent=indent, break_long_words=False)


def count(value: float) -> str:
    """A number with three digits and a suffix: 1234567 -> 1.23M."""
    for suffix, unit in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= 0.9995 * unit:  # 999,960 is 1M, and not 1e+03k
            return f"{value / unit:.3g}{suffix}"
    return f"{value:.3g}"


def duration(seconds: float) -> str:
    """Seconds as s, min, h or days, at least two digits."""
    for name, unit in (("days", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * unit:
            return f"{seconds / unit:.{0 if seconds >= 10 * unit else 1}f} {name}"
    return f"{seconds:.0f} s"
