"""Warnings of a table, which results of it take on: rows that loading merged, or excluded, or that
look as if they were in another unit.
"""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar, cast

import pandas as pd

from analysis.fitting.results import Result
from analysis.fitting.text import Said

_LEFT_OUT = ("damaged", "left_out")  # lines of attrs
P = ParamSpec("P")
R = TypeVar("R", bound=Result)


def warnings_of_table(table: pd.DataFrame, by_cell: bool = True) -> tuple[str, ...]:
    """Warnings that loading has of a table. by_cell: one loss of each cell counts, so runs that
    merge are a warning.
    """
    left_out = [table.attrs[name] for name in _LEFT_OUT if name in table.attrs]
    merged = () if by_cell else table.attrs.get("merged", ())
    return (*left_out, *(w for w in table.attrs.get("warnings", ()) if w not in merged))


def warned(
    name: str = "table", *, by_cell: bool = True, unless: str | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Makes a function's result take on the warnings of its table, the argument `name`, once: what
    it calls sees a table without them. unless: an argument that names what would be merged.
    """

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        signature = inspect.signature(function)

        @wraps(function)
        def of_table(*args: Any, **kwargs: Any) -> R:
            given = signature.bind(*args, **kwargs)
            table = given.arguments[name]
            split = unless is not None and given.arguments.get(unless) is not None
            told = warnings_of_table(table, by_cell and not split)
            if told:
                given.arguments[name] = _without(table)
            return function(*given.args, **given.kwargs).with_warnings(told)

        return cast("Callable[P, R]", of_table)

    return decorate


def say_once(table: pd.DataFrame) -> None:
    """Marks the warnings of a table, in place, as printed: summaries leave them out."""
    for name in _LEFT_OUT:
        if name in table.attrs:
            table.attrs[name] = Said(table.attrs[name])
    table.attrs["warnings"] = tuple(map(Said, table.attrs.get("warnings", ())))


def _without(table: pd.DataFrame) -> pd.DataFrame:
    """Same rows, with nothing for a result to take on."""
    quiet = table.copy(deep=False)
    quiet.attrs = {k: v for k, v in table.attrs.items() if k not in (*_LEFT_OUT, "warnings")}
    return quiet
