"""Series of a curve: the name of a run's series, and models whose names are sizes."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pandas as pd

from analysis.fitting.text import join_first
from analysis.settings import setting
from analysis.table.layer import find_column, plain_name, setting_names

ALL = "all"  # the one series of a table that is to have one
_FEWEST = 3  # sizes that a curve needs
_NEAR = 2.0  # a name's size and the counted one may differ so much: embeddings, rounding
_COUNT = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)(k|m|b|bn)(?![a-z0-9])", re.IGNORECASE)
_WIDTH = re.compile(
    r"(?<![a-z0-9])(?:d|w|l|h|depth|dim|width|d_model|layers)[-_=]?(\d+)(?![a-z0-9.])",
    re.IGNORECASE,
)
_FACTORS = {"k": 1e3, "m": 1e6, "b": 1e9, "bn": 1e9}


def variants(table: pd.DataFrame) -> pd.Series:
    """Model's name, and the settings of its layer that vary over its runs in this table."""
    models = table["model"].astype("string")
    settings = setting_names(table)
    return models.where(settings == "", models + " " + settings).astype(table["model"].dtype)


def named_by(table: pd.DataFrame, frame: pd.DataFrame, names: Sequence[str]) -> pd.Series:
    """A series for each combination of values of these columns; without any, one for all runs.

    names: columns of the frame as it was given, else of the table. A text is its own name, a
    number has its column's before it: "c4 bs=512". Raises ValueError for one that neither has.
    """
    if not names:
        return pd.Series(ALL, index=table.index, dtype="string")
    parts: list[list[str]] = [[] for _ in range(len(table))]
    for given in names:
        name = find_column(table, given)
        if name not in frame and name not in table:
            found = join_first([str(column) for column in table], 40)
            raise ValueError(f"{setting('series')}: {name!r} is no column; found {found}")
        values = (frame if name in frame else table)[name].loc[table.index]
        if name.endswith("_target_"):
            values = _class_names(values)
        for part, value in zip(parts, values, strict=True):
            if pd.notna(value) and str(value).strip():
                part.append(_part(plain_name(name), value))
    return pd.Series([" ".join(part) or "none" for part in parts], table.index, dtype="string")


def _class_names(targets: pd.Series) -> pd.Series:
    """Classes of `_target_`s without their modules, unless two would have one name."""
    names = targets.map(lambda target: str(target).rpartition(".")[2], na_action="ignore")
    return names if names.nunique() == targets.nunique() else targets


def _part(name: str, value: object) -> str:
    text = str(value).strip()
    try:
        return f"{name}={float(text):.6g}"
    except ValueError:
        return text


def merge_sizes(table: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Models whose names are sizes, e.g. llama-130m, are one model: what is left of the names.

    Three or more names that differ in their size alone, each of one size in the table, in the same
    order, and near it where the name counts parameters. The names are kept as given_model.
    """
    size = table["n_params"].fillna(table["n_active_params"])
    of_name = size.groupby(table["model"]).agg(["min", "max"])
    families: dict[str, list[tuple[tuple[float, ...], float, str]]] = {}
    for name, low, high in of_name.itertuples():
        parsed = _parsed(str(name), high)
        if parsed is not None and high <= low * 1.01:
            families.setdefault(parsed[0], []).append((parsed[1], high, str(name)))
    renamed: dict[str, str] = {}
    for family, members in families.items():
        members.sort(key=lambda member: member[1])
        keys = [key for key, _, _ in members]
        if len(members) < _FEWEST or not all(_grows(a, b) for a, b in pairwise(keys)):
            continue
        renamed |= {name: family for _, _, name in members}
        shown = join_first([name for _, _, name in members], 2)
        notes.append(
            f"model names sizes ({shown}): these runs are one model, {family}; the names are kept "
            f"as given_model, and {setting('series', ['given_model'])} makes each a series"
        )
    if not renamed:
        return table
    given = table["model"]
    return table.assign(model=given.map(lambda name: renamed.get(name, name)), given_model=given)


def _grows(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Whether a larger model's name has larger numbers, of the same kinds as a smaller one's."""
    return len(a) == len(b) and a != b and all(x <= y for x, y in zip(a, b, strict=True))


def _parsed(name: str, size: float) -> tuple[str, tuple[float, ...]] | None:
    """Rest of a name without its sizes, and these; None for one without."""
    counts = [float(number) * _FACTORS[unit.lower()] for number, unit in _COUNT.findall(name)]
    if any(not 1 / _NEAR <= count / size <= _NEAR for count in counts):
        return None  # e.g. a number of experts
    widths = [float(number) for number in _WIDTH.findall(name)]
    if not counts and not widths:
        return None
    rest = _WIDTH.sub("", _COUNT.sub("", name))
    family = re.sub(r"([-_/\s.])[-_/\s.]+", r"\1", rest).strip("-_/ .")
    return family or "model", (*counts, *widths)
