"""Settings of the layer under study, as its config says them: columns whose names begin so.

A record has them under `layer` (experiments/records/record.py). A table has a column `layer.NAME`
for each, and no list of names is kept here: a new layer's own settings make series as any others.
"""

from collections.abc import Collection

import pandas as pd
from pandas.api.types import is_bool_dtype, is_numeric_dtype

PREFIX = "layer."
AXES = ("n_experts", "n_heads", "top_k")  # of laws, so columns of any table
_EARLIER = "query_norm"  # a column of its own in tables that were written before December 2026
_EXACT = 1e-9  # relative


def list_settings(table: pd.DataFrame) -> list[str]:
    """Columns that tell variants of a model apart: AXES, then those of its layer."""
    return [name for name in map(str, table) if name in AXES or name.startswith(PREFIX)]


def find_column(table: pd.DataFrame, name: str) -> str:
    """Column that a user means: query_norm is layer.query_norm unless it is there itself."""
    return PREFIX + name if name not in table and PREFIX + name in table else name


def plain_name(column: str) -> str:
    """A setting's name, as a config has it and a series shows it."""
    return column.removeprefix(PREFIX)


def with_own_names(frame: pd.DataFrame) -> pd.DataFrame:
    """Frame with AXES by their plain names, and other settings of the layer by `layer.NAME`."""
    found = {PREFIX + name: name for name in AXES if name not in frame}
    if PREFIX + _EARLIER not in frame:
        found[_EARLIER] = PREFIX + _EARLIER
    return frame.rename(columns=found)


def typed(values: pd.Series) -> pd.Series:
    """A setting's values as numbers, as booleans, or as texts: read from a file or from records."""
    known = values.dropna()
    texts = known.astype("string").str.strip()
    if known.empty:
        return values.astype("string")
    if is_bool_dtype(known) or texts.str.lower().isin(["true", "false"]).all():
        whole = texts.str.lower().map({"true": True, "false": False})
        return whole.reindex(values.index).astype("boolean")
    numbers = pd.to_numeric(
        known.mask(known.map(lambda value: isinstance(value, bool))), errors="coerce"
    )
    if numbers.notna().all():
        return numbers.reindex(values.index).astype("float64")
    return texts.where(texts != "").reindex(values.index).astype("string")


def shown(values: pd.Series) -> list[str | None]:
    """Each value as a series shows it: 16384, 2.66667, True, batch; None where there is none."""
    is_number = is_numeric_dtype(values) and not is_bool_dtype(values)
    return [
        None if pd.isna(value) else _number(value) if is_number else str(value)
        for value in values.tolist()
    ]


def _number(value: float) -> str:
    return f"{int(value)}" if value == int(value) else f"{value:.6g}"


def varying(runs: pd.DataFrame) -> list[str]:
    """Settings in which runs of one model differ.

    One that is the same multiple of the width in all of them is none: the layer grows with the
    model. Absent is a value, for a setting that is younger than a run is off in it; but a run that
    broke off may lack its config.
    """
    is_done = runs["status"] == "done"
    return [
        name
        for name in list_settings(runs)
        if runs.loc[is_done | runs[name].notna(), name].nunique(dropna=False) > 1
        and not _grows(runs, name)
    ]


def telling(runs: pd.DataFrame) -> list[str]:
    """Those of varying that tell the runs of one model apart, for a name: none that follows from
    the ones before it. AXES are told always.
    """
    found: list[str] = []
    for name in varying(runs):
        before = runs.groupby(found, dropna=False)[name] if found else None
        if name in AXES or before is None or before.nunique(dropna=False).max() > 1:
            found.append(name)
    return found


def setting_names(runs: pd.DataFrame, but: Collection[str] = ()) -> pd.Series:
    """A text for each run: the settings that tell its model's runs apart, but for those named."""
    names = pd.Series("", runs.index, dtype="string")
    for _, own in runs.groupby("model", sort=False):
        columns = [(plain_name(n), shown(own[n])) for n in telling(own) if n not in but]
        texts = zip(*(values for _, values in columns), strict=True) if columns else ()
        for row, values in zip(own.index, texts, strict=bool(columns)):
            pairs = zip(columns, values, strict=True)
            names[row] = " ".join(f"{name}={v}" for (name, _), v in pairs if v is not None)
    return names


def _grows(runs: pd.DataFrame, name: str) -> bool:
    """Whether a number is proportional to the width."""
    values = runs[name]
    if "d_model" not in runs or not is_numeric_dtype(values) or is_bool_dtype(values):
        return False
    both = pd.DataFrame({"value": values, "width": runs["d_model"]}).dropna().astype("float64")
    times = both["value"] / both["width"]
    return bool(len(times) and times.max() - times.min() <= _EXACT * times.max())
