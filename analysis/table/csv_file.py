"""Reads a CSV as other programs write it: its separator, its decimals, its lines that don't fit."""

import csv
import gzip
import io
import re
import warnings
import zlib
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.fitting.text import join_first, pluralize
from analysis.settings import setting
from experiments.system.csv_text import unguarded
from experiments.system.regular_files import open_regular, read_regular

SEPARATORS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}
_NAMES = {mark: name for name, mark in SEPARATORS.items()}
_IDS = ("run_id", "ID", "id")  # 0123e456 is no number there
_MOST_BYTES = 1 << 30  # of a packed file, which may say little and hold much
_HEAD = 20  # lines that a separator is guessed by
_ALIKE = 0.5  # of them, more must have the head's number of fields
_WITH_COMMA = re.compile(r"[+-]?\d+(?:,(\d+))?(?:[eE][+-]?\d+)?")


def parse_separator(text: str) -> str:
    """Mark itself, by its name or as it is. Raises ValueError for more than one character."""
    mark = SEPARATORS.get(text, "\t" if text == "\\t" else text)
    if len(mark) != 1 or mark.isalnum() or mark in "\"'\n\r.-+":
        names = ", ".join(SEPARATORS)
        raise ValueError(f"{setting('separator')} {text!r} is none: {names}, or one mark")
    return mark


def read_csv(path: Path, separator: str | None = None) -> pd.DataFrame:
    """Rows of a CSV, its index naming each, e.g. "line 7"; attrs["notes"]: what was guessed.

    separator: as parse_separator takes it; by default the mark that parts all lines alike, a comma
    if it does. A column of numbers like 4,5 is read with decimal commas, but one that may be
    thousands, like 1,234, stays a text. Raises ValueError naming the path, and the line or column.
    """
    text = _decoded(path)
    notes: list[str] = []
    mark = _guess(text, notes) if separator is None else parse_separator(separator)
    _check_lines(path, text, mark, notes)
    try:
        with warnings.catch_warnings():
            # Of separators at the end of lines; _check_lines refuses values there
            warnings.simplefilter("ignore", pd.errors.ParserWarning)
            # "-" is W&B's word for nothing; blank lines count, so that lines are the file's
            frame = pd.read_csv(
                io.StringIO(text),
                sep=mark,
                index_col=False,
                na_values=["-"],
                skip_blank_lines=False,
                low_memory=False,
                dtype=dict.fromkeys(_IDS, "string"),
            )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except pd.errors.ParserError as error:
        why = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path} is not a CSV in UTF-8: {why}") from error
    frame.index = pd.Index([f"line {i + 2}" for i in range(len(frame))])
    frame = frame.rename(columns=_cell)
    texts = frame.select_dtypes(exclude="number").columns
    cells = {name: frame[name].map(_cell) for name in texts}
    frame = frame.assign(
        **{n: cell if n in _IDS else _numbers(cell, notes) for n, cell in cells.items()}
    )
    frame.attrs["notes"] = tuple(notes)
    return frame


def _decoded(path: Path) -> str:
    content = read_regular(path) if path.suffix.lower() != ".gz" else _unpacked(path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            why = "it begins as UTF-16 does"
        else:
            line = content.count(b"\n", 0, error.start) + 1
            why = f"line {line} has the byte 0x{content[error.start]:02x}"
        raise ValueError(f"{path} is not a CSV in UTF-8: {why}; save it as UTF-8") from None


def _unpacked(path: Path) -> bytes:
    try:
        with open_regular(path) as raw, gzip.open(raw) as file:
            content = file.read(_MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the disk's
            raise
        raise ValueError(f"{path} is damaged, or no gzip file: {error}") from None
    if len(content) > _MOST_BYTES:
        raise ValueError(
            f"{path} unpacks to more than {_MOST_BYTES >> 20} MiB; unpack it, and give the CSV"
        )
    return content


def _guess(text: str, notes: list[str]) -> str:
    """Mark that parts the first lines into the same number of fields; of several the comma."""
    lines = [line for line in text[:100_000].splitlines() if line.strip()][:_HEAD]
    best, found = (0.0, 0), ","
    for mark in _NAMES:
        counts = [len(row) for row in csv.reader(lines, delimiter=mark)] or [1]
        if counts[0] > 1:
            alike = sum(n == counts[0] for n in counts) / len(counts)
            if alike <= _ALIKE:
                continue
            if alike > best[0] or (found != "," and (alike, counts[0]) > best):
                best, found = (alike, counts[0]), mark
    if found != ",":
        notes.append(f"its separator is a {_NAMES[found]}, by its first lines")
    return found


def _check_lines(path: Path, text: str, mark: str, notes: list[str]) -> None:
    """Raises ValueError for a name that occurs twice, and values beyond the last column."""
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=mark)
    short = []
    try:
        names = [name.strip() for name in next(reader, [])]
        if not any(names) and text.strip():
            raise ValueError(f"{path}: line 1 is empty; it must name the columns")
        twice = sorted({name for name in names if name and names.count(name) > 1})
        if twice:
            raise ValueError(f"{path}: columns occur twice: {', '.join(twice)}; rename or drop one")
        for row in reader:
            if any(value.strip() for value in row[len(names) :]):
                raise ValueError(
                    f"{path}: line {reader.line_num} has {pluralize(len(row), 'field')}, its head "
                    f"{len(names)}: put texts with a {_NAMES.get(mark, mark)} in quotes, name each "
                    f"column, or say the separator, e.g. {setting('separator', 'semicolon')}"
                )
            if len(row) < len(names) and any(value.strip() for value in row):
                short.append(f"line {reader.line_num}")
    except csv.Error:  # pandas says it, or reads what this module can't, e.g. long fields
        return
    if short:
        notes.append(f"fewer fields than columns, the others are empty: {join_first(short)}")


def _cell(value: Any) -> Any:
    """As it was before it was written for spreadsheets."""
    return unguarded(value) if isinstance(value, str) else value


def _numbers(column: pd.Series, notes: list[str]) -> pd.Series:
    """Numbers of a column whose decimals have a comma, if no value can be of thousands."""
    values = column.dropna()
    found = [_WITH_COMMA.fullmatch(str(value).strip()) for value in values]
    if not values.size or not all(found):
        return column
    decimals = [match[1] for match in found if match and match[1]]
    if not decimals or all(len(digits) == 3 for digits in decimals):
        return column
    notes.append(f"the decimals of {column.name} have commas, e.g. {values.iloc[0]}")
    return column.map(lambda v: v.strip().replace(",", ".") if isinstance(v, str) else v)
