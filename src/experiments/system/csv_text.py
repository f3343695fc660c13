"""Text in CSV files that no spreadsheet takes for a formula. Pandas is its caller's.

A cell that begins with one of = + - @, a tab or a line break is run by spreadsheets
(https://owasp.org/www-community/attacks/CSV_Injection). It gets an apostrophe in front, which they
show as plain text; numbers are no text and stay as they are.
"""

import csv
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

_FORMULA = re.compile(r"'*[=+\-@\t\r\n]")


def guarded(text: str) -> str:
    """Text, with an apostrophe in front where a spreadsheet would run it."""
    return f"'{text}" if _FORMULA.match(text) else text


def unguarded(text: str) -> str:
    """Inverse of `guarded`: one apostrophe is removed, those of the text itself stay."""
    return text[1:] if text.startswith("'") and _FORMULA.match(text) else text


def to_csv(frame: "pd.DataFrame") -> str:
    """Frame as CSV without its index, its texts and column names guarded."""

    def cell(value: Any) -> Any:
        return guarded(value) if isinstance(value, str) else value

    texts = frame.select_dtypes(exclude=["number", "boolean", "bool"]).columns
    safe = frame.assign(**{str(name): frame[name].map(cell) for name in texts})
    text = str(safe.rename(columns=cell).to_csv(index=False))
    if "\r" not in text:
        return text
    # Python quotes no carriage return, which readers take for the end of a line
    return str(safe.rename(columns=cell).to_csv(index=False, quoting=csv.QUOTE_NONNUMERIC))
