"""Ways to do one thing, compared: means over seeds with intervals, a row a way."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Estimate
from analysis.fitting.results import Warned
from analysis.fitting.text import format_status, noise_cautions


class Ways(Warned):
    """A result whose `ways` are dataclasses with numbers, names and Estimates at `level`."""

    level: float
    ways: tuple[Any, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row a way: each field, and the bounds of an Estimate beside it."""
        return pd.DataFrame([_row(way) for way in self.ways])

    def _summary(
        self,
        columns: Mapping[str, Callable[[Any], object]],
        *notes: str,
        head: Sequence[str] = (),
    ) -> str:
        """Lines, the table of the ways, notes and the warnings."""
        shown = {name: [cell(way) for way in self.ways] for name, cell in columns.items()}
        table = pd.DataFrame(shown).to_string(index=False)
        warned = format_status(self.status, self.warnings)
        return "\n".join([*head, table, *notes, *warned])


def _row(way: Any) -> dict[str, object]:
    """Without what is several numbers; the Estimates of a mapping are named by its keys."""
    row: dict[str, object] = {}
    for field in fields(way):
        value = getattr(way, field.name)
        if isinstance(value, Estimate):
            row |= value.columns(field.name)
        elif isinstance(value, Mapping):
            for key, inner in value.items():
                for name, estimate in inner.items():
                    row |= estimate.columns(f"{key}_{name}")
        elif not isinstance(value, tuple):
            row[field.name] = value
    return row


def shown(estimate: Estimate, signed: bool = True) -> str:
    """A number and its interval, for a table; nothing for nan."""
    return "" if np.isnan(estimate.value) else numbers.with_interval(*estimate, signed=signed)


def format_way(name: str, way: Any) -> str:
    """Estimate of that name of a way."""
    return shown(getattr(way, name))


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
