"""Reads what a table can be made from, as it stands: a sweep's records, a CSV, a Parquet file."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from analysis.fitting.text import join_first
from experiments.records import DamagedError, RunRecord, find_records, flat_row, read_record
from experiments.system.csv_text import unguarded

_SEPARATORS = {";": "';'", "\t": "a tab", "|": "'|'"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What was read, once: a row a run, and the records that the rows of a folder are of."""

    frame: pd.DataFrame
    records: tuple[RunRecord, ...] = ()  # none where the rows come from a file


def read_source(path: str | Path) -> Source:
    """A folder's record.json files or a file's rows; the index names each, e.g. "line 7".

    Damaged records are left out, and frame.attrs["damaged"] is a line that says so. Raises
    ValueError naming the path if it is missing, is no table, or has no rows.
    """
    path = Path(path)
    if path.is_dir():
        return _read_records(path)
    if not path.exists():
        raise ValueError(
            f"{path}: no such file or folder; wanted: a sweep's folder, a .csv or a .parquet"
        )
    suffix = path.suffix.lower()
    if suffix == ".csv":
        frame = _read_csv(path)
    elif suffix == ".parquet":
        frame = _read_parquet(path)
    else:
        raise ValueError(f"{path}: its suffix is not .csv or .parquet; save it as one of them")
    frame.columns = frame.columns.astype(str).str.strip()
    # What to_csv writes for an index: nothing of the runs
    frame = frame.loc[:, ~frame.columns.str.startswith("Unnamed: ")]
    frame = frame.dropna(how="all")
    if frame.empty:
        raise ValueError(f"{path} has no rows")
    return Source(frame=frame)


def _read_records(folder: Path) -> Source:
    paths = list(find_records(folder))
    if not paths:
        raise ValueError(
            f"no record.json below {folder}; run a sweep first, e.g. "
            "python -m experiments.run experiment=demo"
        )
    rows, records, damaged = {}, [], []
    for path, record in zip(paths, _read_each(paths), strict=True):
        if isinstance(record, RunRecord):
            rows[str(path.parent.relative_to(folder))] = flat_row(record)
            records.append(record)
        else:
            damaged.append(record)
    said = f"{len(damaged)} of {len(paths)} records are damaged: " + join_first(
        [f"{error.path} ({error.why})" for error in damaged], separator="; "
    )
    if not rows:
        raise ValueError(f"{said}; {damaged[0].remedy}")
    frame = pd.DataFrame(list(rows.values()), index=list(rows))
    if damaged:
        frame.attrs["damaged"] = f"left out: {said}; {damaged[0].remedy}"
    return Source(frame=frame, records=tuple(records))


def _read_each(paths: Iterable[Path]) -> Iterator[RunRecord | DamagedError]:
    """Each record in turn, or what is wrong with it."""
    for path in paths:
        try:
            yield read_record(path)
        except DamagedError as error:
            yield error
        except OSError as error:  # gone since it was found, or a link to nowhere
            yield DamagedError(path, str(error.strerror), "delete it, or put the file there")


def _read_csv(path: Path) -> pd.DataFrame:
    _check_separator(path)
    try:
        # "-" is what W&B's export has for nothing; blank lines count, so that lines are the file's
        frame = pd.read_csv(
            path,
            encoding="utf-8-sig",
            na_values=["-"],
            skip_blank_lines=False,
            low_memory=False,
            dtype=dict.fromkeys(("run_id", "ID", "id"), "string"),  # 0123e456 is not a number
        )
    except pd.errors.EmptyDataError:
        raise ValueError(f"{path} is empty") from None
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        why = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path} is not a CSV in UTF-8: {why}") from error
    frame.index = pd.Index([f"line {i + 2}" for i in range(len(frame))])
    frame = frame.rename(columns=_cell)
    texts = frame.select_dtypes(exclude="number").columns
    return frame.assign(**{name: frame[name].map(_cell) for name in texts})


def _cell(value: Any) -> Any:
    """As it was before it was written for spreadsheets."""
    return unguarded(value) if isinstance(value, str) else value


def _check_separator(path: Path) -> None:
    """Raises ValueError if the head of a CSV is parted by something else than commas."""
    with path.open("rb") as file:
        head = file.readline(100_000).decode("utf-8", errors="replace").lstrip("\ufeff").strip()
    found = next((name for mark, name in _SEPARATORS.items() if mark in head), None)
    if found and "," not in head:
        raise ValueError(
            f"{path}: is {found} its separator? Commas are wanted, and points in numbers; its "
            f"first line is {head[:80]!r}"
        )


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(path)
    except ImportError:
        raise ValueError(
            f"{path}: Parquet needs pyarrow: pip install 'expert-isoflops[hub]'"
        ) from None
    except (ValueError, OSError) as error:
        why = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path} is not a Parquet file: {why}") from error
    frame.index = pd.Index([f"row {i + 1}" for i in range(len(frame))])
    return frame
