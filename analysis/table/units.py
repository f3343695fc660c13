"""Units of a table's columns, by the column's name or as they are given, and what they become."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from analysis.settings import setting
from analysis.table.checks import AMOUNTS, refuse

LOSS_UNIT = "loss_unit"  # the column of a table whose losses are not nats per token
PER_TOKEN, PER_BYTE = "nats/token", "nats/byte"
_PREFIXES = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18, "Z": 1e21}
_PF_DAY = 1e15 * 86_400
_FLOPS = {f"{prefix}FLOP": factor for prefix, factor in _PREFIXES.items()} | {"PF-day": _PF_DAY}
_COUNTS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}
_WORDS = {  # as they are written elsewhere -> here; lower case, without a plural's s
    "petaflop": "PFLOP",
    "exaflop": "EFLOP",
    "teraflop": "TFLOP",
    "gigaflop": "GFLOP",
    "petaflop/s-day": "PF-day",
    "pflop/s-day": "PF-day",
    "pfday": "PF-day",
    "thousand": "k",
    "million": "M",
    "bn": "B",
    "billion": "B",
    "trillion": "T",
    "bit per byte": "bit/byte",
    "bpb": "bit/byte",
    "nat per byte": "nat/byte",
    "nat/token": "nat",
    "bit/token": "bit",
    "ppl": "perplexity",
}
_OF_FLOPS = ("budget", "flops_per_token", "achieved_flops")
COLUMNS_WITH_UNITS = (*dict.fromkeys((*AMOUNTS, "achieved_flops")), "loss")


@dataclass(frozen=True, kw_only=True)
class Unit:
    """How a column's numbers become ours: FLOPs, plain counts, nats.

    how: what is done, for a note, e.g. "times 1e+09"; per_byte: of a loss, that it is.
    """

    name: str
    convert: Callable[[Any], Any]
    how: str
    per_byte: bool = False


def _times(name: str, factor: float, per_byte: bool = False) -> Unit:
    return Unit(
        name=name, convert=lambda v: v * factor, how=f"times {factor:.6g}", per_byte=per_byte
    )


_LOSSES = {
    "nat": _times("nat", 1.0),
    "bit": _times("bit", float(np.log(2))),
    "nat/byte": _times("nat/byte", 1.0, per_byte=True),
    "bit/byte": _times("bit/byte", float(np.log(2)), per_byte=True),
    "perplexity": Unit(name="perplexity", convert=np.log, how="its logarithm"),
}


def parse_unit(column: str, text: str) -> Unit:
    """Unit of a column of ours: its name, e.g. GFLOP, M or bit/byte, or a factor, e.g. 1e9.

    Raises ValueError for a column without units, and a unit that the column can't have.
    """
    if column not in COLUMNS_WITH_UNITS:
        raise ValueError(
            f"{setting('units')}: {column!r} is not one of {', '.join(COLUMNS_WITH_UNITS)}"
        )
    found = _known(column, text)
    if found is None:
        try:
            factor = float(text)
        except ValueError:
            factor = float("nan")
        if not 0 < factor < float("inf"):
            known = ", ".join(_find_units(column))
            raise ValueError(
                f"{setting('units')}: {column}={text!r} is not one of {known}, or a factor above 0"
            )
        found = _times(text, factor)
    return found


def _known(column: str, text: str) -> Unit | None:
    word = re.sub(r"s\b", "", " ".join(text.replace("_", " ").split()).lower())
    word = _WORDS.get(word, word)
    units = _find_units(column)
    return next((unit for name, unit in units.items() if name.lower() == word.lower()), None)


def _find_units(column: str) -> Mapping[str, Unit]:
    if column == "loss":
        return _LOSSES
    factors = _FLOPS if column in _OF_FLOPS else _COUNTS
    return {name: _times(name, factor) for name, factor in factors.items()}


_IN_BRACKETS = re.compile(r"(.+?)[\s_]*[(\[](?:in )?([^()\[\]]+)[)\]]")
_SUFFIX = re.compile(r"(.+?)[\s_-](?:in[\s_-])?([A-Za-z]+)")


def split_unit(name: str) -> list[tuple[str, str]]:
    """How a column's name may be read as a name and a unit: "tokens (B)" as ("tokens", "B")."""
    found = (pattern.fullmatch(name.strip()) for pattern in (_IN_BRACKETS, _SUFFIX))
    return [(match[1].strip(), match[2].strip()) for match in found if match]


def unit_in_name(column: str, text: str) -> Unit | None:
    """Unit that a part of a column's name is, if the column can have it. No factors."""
    return _known(column, text) if column in COLUMNS_WITH_UNITS else None


def apply_units(
    table: pd.DataFrame, units: Mapping[str, tuple[str, Unit]], notes: list[str]
) -> pd.DataFrame:
    """Table in our units. units: our column -> its name in the frame, and its unit.

    A loss per byte adds the column LOSS_UNIT. Each conversion is a note. Raises ValueError for a
    perplexity below 1.
    """
    for column, (given, unit) in units.items():
        if unit is _LOSSES["perplexity"]:
            refuse(table, column, table[column] < 1, "is below 1, which no perplexity is")
        with np.errstate(divide="ignore", invalid="ignore"):  # of losses that the checks refuse
            table = table.assign(**{column: unit.convert(table[column])})
        if unit.how != "times 1":
            notes.append(f"{column} is {given}, in {unit.name}: {unit.how}")
        if column == "loss" and unit.per_byte:
            table = table.assign(**{LOSS_UNIT: PER_BYTE})
            notes.append(
                "losses are nats per byte: sizes and budgets are as of any loss, but a loss or a "
                "perplexity is per byte, and compares with others per byte only"
            )
    return table


def loss_unit(table: pd.DataFrame) -> str:
    """ "nats/token", or "nats/byte" if the table's losses are that."""
    if LOSS_UNIT not in table or not len(table):
        return PER_TOKEN
    return PER_BYTE if (table[LOSS_UNIT] == PER_BYTE).all() else PER_TOKEN


def in_unit(text: str, unit: str) -> str:
    """A text that was written of losses per token, of losses in this unit."""
    if unit == PER_TOKEN:
        return text
    return text.replace(PER_TOKEN, unit).replace("perplexity per token", "perplexity per byte")
