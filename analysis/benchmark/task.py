"""A question to a table: its columns, and what the analysis answers of rows it has not seen."""

from collections.abc import Callable
from dataclasses import dataclass

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

    Raises ValueError for rows that can't be.
    """

    name: str
    columns: tuple[str, ...]
    target: str
    published: tuple[str, ...]
    answer: Callable[[pd.DataFrame, pd.DataFrame], Answer]
    largest: Callable[[pd.DataFrame], Array]
