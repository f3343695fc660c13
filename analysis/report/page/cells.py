"""A table's columns as cells: what is shown, what is sorted by, and what stands out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Estimate
from analysis.report.page.blocks import DataTable, Format

_LONG = 28  # characters; longer texts may wrap


@dataclass(frozen=True, kw_only=True)
class Head:
    """A column's name and the unit below it."""

    name: str
    unit: str
    is_number: bool


@dataclass(frozen=True, kw_only=True)
class Cell:
    """kind: its class; key: the number to sort by, as JavaScript reads it; title: when hovered."""

    text: str
    kind: str = ""
    key: str = ""
    title: str = ""
    is_long: bool = False
    is_best: bool = False


def head_cells(table: DataTable) -> list[Head]:
    return [
        Head(
            name=name,
            unit=table.units.get(name, ""),
            is_number=_is_numeric(_known(_values(table, i))),
        )
        for i, name in enumerate(map(str, table.frame.columns))
    ]


def body_rows(table: DataTable) -> list[tuple[Cell, ...]]:
    columns = [
        _cells(
            _values(table, i),
            table.formats.get(str(name)),
            table.best.get(str(name)),
        )
        for i, name in enumerate(table.frame.columns)
    ]
    return list(zip(*columns, strict=True))


def _values(table: DataTable, i: int) -> list[Any]:
    return list(table.frame.iloc[:, i])


def _cells(values: Sequence[Any], chosen: Format | None, best: str | None) -> list[Cell]:
    known = _known(values)
    is_numeric = _is_numeric(known)
    show = _shown_by(chosen, known) if is_numeric or chosen is not None else _as_text
    absent = Cell(text="–", kind="number absent" if is_numeric else "absent", title="no value")
    keys = [_key(value) for value in known] if is_numeric else []
    first = (min(keys) if best == "min" else max(keys)) if best and keys else None
    return [
        absent
        if _is_absent(value)
        else _number_cell(value, show(value), is_best=first is not None and _key(value) == first)
        if is_numeric
        else Cell(text=show(value), is_long=len(show(value)) > _LONG)
        for value in values
    ]


def _number_cell(value: Any, shown: str, *, is_best: bool) -> Cell:
    key = _key(value)
    exact = str(key) if isinstance(key, Integral) else repr(float(key))
    in_full = exact
    if isinstance(value, Estimate) and value.lower <= value.upper:
        in_full = f"{exact} ({value.lower!r} to {value.upper!r})"
    return Cell(
        text=shown,
        kind="number",
        key=exact.replace("inf", "Infinity"),
        title=in_full,
        is_best=is_best,
    )


def _key(value: Any) -> Any:
    return float(value.value) if isinstance(value, Estimate) else value


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if not _is_absent(value)]


def _is_absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Estimate):
        return bool(pd.isna(value.value))
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _is_numeric(known: Sequence[Any]) -> bool:
    return bool(known) and all(
        isinstance(v, Estimate) or (isinstance(v, Real) and not isinstance(v, bool)) for v in known
    )


def _as_text(value: Any) -> str:
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    return str(value)


def _shown_by(chosen: Format | None, known: Sequence[Any]) -> Callable[[Any], str]:
    """As chosen for the column; else at the digits that it needs, Estimates with their interval."""
    if callable(chosen):
        return chosen
    if chosen is not None:
        return lambda value: format(value, chosen)
    by_digits = numbers.column([v for v in known if not isinstance(v, Estimate)])
    return lambda v: numbers.with_interval(*v) if isinstance(v, Estimate) else by_digits(v)
