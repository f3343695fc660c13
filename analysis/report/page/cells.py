"""A table's columns as cells of HTML: what is shown, and what is sorted by."""

import math
from collections.abc import Callable, Sequence
from html import escape
from numbers import Integral, Real
from typing import Any

import pandas as pd

from analysis.report.page.blocks import DataTable, Format

_DIGITS = 4
_LONG = 28  # characters; longer texts may wrap


def head_cells(table: DataTable) -> list[str]:
    """A header cell a column: its name, and its unit below."""
    cells = []
    for i, name in enumerate(map(str, table.frame.columns)):
        unit = table.units.get(name)
        below = f' <span class="unit">{escape(unit)}</span>' if unit else ""
        kind = ' class="number"' if _is_numeric(_known(_values(table, i))) else ""
        cells.append(f'<th scope="col"{kind}>{escape(name)}{below}</th>')
    return cells


def body_rows(table: DataTable) -> list[tuple[str, ...]]:
    """The cells of each row."""
    columns = [
        _cells(_values(table, i), table.formats.get(str(name)), str(name))
        for i, name in enumerate(table.frame.columns)
    ]
    return list(zip(*columns, strict=True))


def _values(table: DataTable, i: int) -> list[Any]:
    return list(table.frame.iloc[:, i])


def _cells(values: Sequence[Any], chosen: Format | None, name: str) -> list[str]:
    known = _known(values)
    if _is_numeric(known):
        cell, show, kind = _number_cell, _by_digits(known), "number absent"
    else:
        cell, show, kind = _text_cell, _as_text, "absent"
    if chosen is not None:
        show = _by_format(chosen, name)
    absent = f'<td class="{kind}" title="no value">–</td>'
    return [absent if _is_absent(value) else cell(value, show(value)) for value in values]


def _number_cell(value: Any, shown: str) -> str:
    exact = str(value) if isinstance(value, Integral) else repr(float(value))
    key = exact.replace("inf", "Infinity")  # as JavaScript reads it
    return f'<td class="number" data-value="{key}" title="{exact}">{escape(shown)}</td>'


def _text_cell(value: Any, shown: str) -> str:
    if len(shown) > _LONG:
        return f'<td><div class="long">{escape(shown)}</div></td>'
    return f"<td>{escape(shown)}</td>"


def _known(values: Sequence[Any]) -> list[Any]:
    return [value for value in values if not _is_absent(value)]


def _is_absent(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return bool(pd.api.types.is_scalar(value) and pd.isna(value))


def _is_numeric(known: Sequence[Any]) -> bool:
    return bool(known) and all(isinstance(v, Real) and not isinstance(v, bool) for v in known)


def _as_text(value: Any) -> str:
    if pd.api.types.is_bool(value):
        return "yes" if value else "no"
    return str(value)


def _by_format(chosen: Format, name: str) -> Callable[[Any], str]:
    if callable(chosen):
        return chosen

    def show(value: Any) -> str:
        try:
            return format(value, chosen)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"formats[{name!r}]={chosen!r} does not suit {value!r}: {error}"
            ) from error

    return show


def _by_digits(known: Sequence[Any]) -> Callable[[Any], str]:
    """Shows numbers with as many significant digits as the column needs, up to _DIGITS.

    A column of large or small numbers is written as 1.234e18, which spreadsheets read; one of
    whole numbers below a million in full.
    """
    finite = [abs(float(value)) for value in known if math.isfinite(value)]
    whole = all(value.is_integer() for value in finite)
    digits = max(map(_needed, finite), default=1)
    largest = max(finite, default=0.0)
    scientific = largest >= (1e6 if whole else 1e5) or largest <= 1e-2

    def show(value: Any) -> str:
        if not math.isfinite(value) or value == 0:
            return f"{value:g}"
        if scientific or abs(value) < 1e-4:
            mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
            return f"{mantissa}e{int(exponent)}"
        decimals = 0 if whole else max(0, digits - 1 - math.floor(math.log10(abs(value))))
        return f"{value:.{decimals}f}"

    return show


def _needed(value: float) -> int:
    """Significant digits without trailing zeros; 0.5 needs 1."""
    mantissa, _ = f"{value:.{_DIGITS - 1}e}".split("e")
    return len(mantissa.rstrip("0").replace(".", ""))
