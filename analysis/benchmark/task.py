"""A question to a table: its columns, and what the analysis answers of rows it has not seen."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import pandas as pd

from analysis.fitting.intervals import Array, Prediction


@dataclass(frozen=True, kw_only=True)
class Answer:
    """Predictions for the hidden rows, with intervals of a new run; chosen: by what."""

    predicted: Prediction
    chosen: str
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Task:
    """columns: those of the rows that it needs, beside the target; published: SLDBench's names of
    tasks of this kind. answer: the fit rows and the hidden rows -> Answer. largest: rows -> what
    they are the largest of (n,), where a table has no hidden rows and some are to be withheld.
    names: a table's name, in lower case with "_" for blanks -> ours. rows: of a table -> those that
    are asked for.

    Raises ValueError for rows that can't be.
    """

    name: str
    columns: tuple[str, ...]
    target: str
    published: tuple[str, ...]
    answer: Callable[[pd.DataFrame, pd.DataFrame], Answer]
    largest: Callable[[pd.DataFrame], Array]
    names: Mapping[str, str] = field(default_factory=dict)
    rows: Callable[[pd.DataFrame], pd.DataFrame] = lambda table: table

    @property
    def needs(self) -> tuple[str, ...]:
        return (*self.columns, self.target)

    def with_rows(self, rows: Callable[[pd.DataFrame], pd.DataFrame]) -> Self:
        return replace(self, rows=rows)

    def read(self, table: pd.DataFrame) -> pd.DataFrame:
        """Rows with our names; a loss under a name of the task's goes before a plain "loss"."""
        keys = {name: re.sub(r"[\s_-]+", "_", str(name).strip()).lower() for name in table}
        ours = {name: self.names[key] for name, key in keys.items() if key in self.names}
        rest = table.drop(
            columns=[name for name in set(ours.values()) - set(ours) if name in table]
        )
        return self.rows(rest.rename(columns=ours))

    def lacks(self, table: pd.DataFrame) -> list[str]:
        """Columns that a table, read, hasn't; by the names that it may have them under."""
        also = {ours: theirs for theirs, ours in reversed(list(self.names.items()))}
        return [also.get(name, name) for name in self.needs if name not in table]
