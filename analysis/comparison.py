"""A comparison: rows of estimates with intervals, and the one way they become a frame and text.

The result of a question is a Comparison that declares its tables; nothing of it prints by itself.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import attrgetter
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import Warned
from analysis.fitting.text import format_status, noise_cautions


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows, each a dataclass, and their columns in a line of text: "NAME=FIELD|FORM, ...".

    FIELD: an attribute, or one of an attribute (a.b); NAME alone is both. FORM: the spec of a
    printed number (".4f"), a word of _FORMS, or of an Estimate: interval or signed, one text; own,
    NAME with NAME_lower and NAME_upper; else NAME, lower and upper. each: a column a key of a
    mapping. Without columns each field is one (to_row). shown: the columns that are printed, if
    others; named: what {} is in a name; beside: more columns, of one value or a value a row;
    digits: significant ones of printed numbers without a spec; skip_empty: no column of nothing but
    nan is printed; head, notes: lines above and below.
    """

    rows: Sequence[Any]
    columns: str = ""
    shown: str = ""
    named: str = ""
    beside: Mapping[str, Any] = field(default_factory=dict)
    digits: int | None = None
    skip_empty: bool = False
    head: Sequence[str] = ()
    notes: Sequence[str] = ()

    def frame(self) -> pd.DataFrame:
        """A row each, at full precision."""
        if not self.columns:
            return pd.DataFrame([to_row(row) for row in self.rows]).assign(**self.beside)
        return self._framed(self._parsed(self.columns))

    def text(self) -> str:
        """Head, the columns that are shown, and notes, in lines."""
        columns = self._parsed(self.shown or self.columns)
        frame = self._framed(columns)
        if self.skip_empty:
            frame = frame.dropna(axis=1, how="all")
        formats: dict[str, Callable[[Any], str]] = {
            name: f"{{:{column.spec}}}".format
            for column in columns
            if column.spec
            for row in self.rows
            for name in column.cells(row)
            if name in frame
        }
        digits = self.digits
        rest = None if digits is None else lambda value: f"{value:.{digits}g}"
        body = frame.to_string(index=False, formatters=formats, float_format=rest)
        return "\n".join([*self.head, body, *self.notes])

    def _parsed(self, columns: str) -> list["_Column"]:
        found = []
        for text in columns.split(", "):
            name, _, rest = text.rpartition("=")
            attribute, _, form = rest.partition("|")
            known = [word for word in form.split() if word in (*_FORMS, "own", "each")]
            spec = "".join(word for word in form.split() if word not in known)
            named = (name or attribute).replace("{}", self.named)
            found.append(_Column(named, attrgetter(attribute), "".join(known), spec))
        return found

    def _framed(self, columns: Sequence["_Column"]) -> pd.DataFrame:
        cells = [{k: v for column in columns for k, v in column.cells(row).items()}
                 for row in self.rows]  # fmt: skip
        return pd.DataFrame(cells).assign(**self.beside)


class Comparison(Warned):
    """A result of `python -m analysis compare`: tables of rows, with intervals at a `level`."""

    @abstractmethod
    def tables(self) -> Sequence[Table]:
        """Tables to print; the first is the comparison as a frame."""

    def unsaid(self) -> Sequence[str]:
        """Warnings that are printed below the tables: all, unless a table has some."""
        return self.warnings

    def to_frame(self) -> pd.DataFrame:
        return self.tables()[0].frame()

    def summary(self) -> str:
        texts = [table.text() for table in self.tables()]
        return "\n".join([*texts, *format_status(self.status, self.unsaid())])


class _Column(NamedTuple):
    name: str
    get: Callable[[Any], Any]
    word: str
    spec: str

    def cells(self, row: Any) -> dict[str, Any]:
        value, form = self.get(row), _FORMS.get(self.word)
        if self.word == "each":
            return dict(value)
        if form is not None:
            return {self.name: form(value)}
        if self.word == "own":
            return dict(value.columns(self.name))
        if isinstance(value, Estimate):
            return dict(zip((self.name, "lower", "upper"), value, strict=True))
        return {self.name: value}


def shown(estimate: Estimate, signed: bool = True) -> str:
    """A number and its interval, for a table; nothing for nan."""
    return "" if np.isnan(estimate.value) else numbers.with_interval(*estimate, signed=signed)


def in_budgets(budgets: Sequence[float]) -> str:
    """FLOPs as "3e13", or "mean of 1e13, 3e13"."""
    return f"{'' if len(budgets) == 1 else 'mean of '}{in_list(budgets)}"


def in_list(budgets: Sequence[float]) -> str:
    return ", ".join(map(numbers.flops, budgets))


_FORMS: Mapping[str, Callable[[Any], Any]] = {
    "flops": numbers.flops,
    "count": numbers.count,
    "budgets": in_budgets,
    "list": in_list,
    "words": lambda found: " ".join(map(str, found)),
    "first": lambda found: round(found, 1),
    "fourth": lambda found: round(found, 4),
    "plain": lambda found: numbers.with_interval(*found),
    "interval": lambda found: shown(found, signed=False),
    "signed": shown,
}


def to_row(row: Any) -> dict[str, object]:
    """Each field of a dataclass, and the bounds of an Estimate beside it.

    Without what is several numbers; the Estimates of a mapping are named by its keys.
    """
    found: dict[str, object] = {}
    for one in fields(row):
        value = getattr(row, one.name)
        if isinstance(value, Estimate):
            found |= value.columns(one.name)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                for name, estimate in inner.items():
                    found |= estimate.columns(f"{key}_{name}")
        elif not isinstance(value, tuple):
            found[one.name] = value
    return found


def pooled_noise(values: pd.Series, groups: list[pd.Series]) -> tuple[float, int]:
    """Standard deviation of one value about the mean of its group, and its degrees of freedom;
    nan without any. groups: columns as values has rows.
    """
    by = values.groupby(groups, dropna=False)
    dof = int((by.size() - 1).sum())
    squares = float(((values - by.transform("mean")) ** 2).sum())
    return (float(np.sqrt(squares / dof)) if dof else float("nan")), dof


def noise_warnings(dof: int, none: str) -> tuple[str, ...]:
    """Warnings of intervals by noise, of so many degrees of freedom. none: why there are none."""
    return noise_cautions(dof) if dof else (f"{none}: there are no intervals",)
