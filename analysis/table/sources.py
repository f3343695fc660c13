"""Reads what a table can be made from, as it stands: a sweep's records, a CSV, a Parquet file."""

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from analysis.fitting.text import join_first, pluralize
from analysis.settings import setting
from analysis.table.csv_file import read_csv
from analysis.table.documents import Documents, Gathered
from experiments.records.files import DamagedError, find_records, read_record
from experiments.records.record import RunRecord, flat_row
from experiments.system.plain_text import printable
from experiments.system.regular_files import MOST, regular
from experiments.system.version import install


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """A source as it was read, once: a row a run, and the records of a folder's rows, whose
    documents are apart.
    """

    frame: pd.DataFrame
    records: tuple[RunRecord, ...] = ()  # none where the rows come from a file
    documents: Documents = field(default_factory=Documents)


def read_source(path: str | Path, separator: str | None = None) -> Source:
    """A folder's record.json files or a file's rows; the index names each, e.g. "line 7".

    separator: of a CSV, a mark or one of comma, semicolon, tab, pipe; guessed if None. Damaged
    records are left out, and frame.attrs["damaged"] is a line that says so. Raises
    ValueError naming the path if it is missing, is no table, or has no rows.
    """
    path = Path(path)
    if separator is not None and (path.is_dir() or path.suffix.lower() == ".parquet"):
        raise ValueError(
            f"{setting('separator')} {separator!r} is of a CSV, and {path} is none; leave it out"
        )
    if path.is_dir():
        return _read_records(path)
    if not path.exists():
        raise ValueError(
            f"{path}: no such file or folder; wanted: a sweep's folder, a .csv, .tsv or .parquet"
        )
    packed = path.suffix.lower() == ".gz"
    suffix = Path(path.stem if packed else path).suffix.lower()
    if suffix in (".csv", ".tsv"):
        frame = read_csv(path, separator or ("tab" if suffix == ".tsv" else None))
    elif suffix == ".parquet" and not packed:
        frame = _read_parquet(path)
    else:
        raise ValueError(
            f"{path}: its suffix is not .csv, .tsv or .parquet; save it as one of them"
        )
    frame.columns = frame.columns.astype(str).str.strip()
    # What to_csv writes for an index: nothing of the runs
    frame = frame.loc[:, ~frame.columns.str.startswith("Unnamed: ")]
    frame = frame.dropna(how="all")
    if frame.empty:
        raise ValueError(f"{path} has no rows")
    return Source(frame=_printable(frame))


def _printable(frame: pd.DataFrame) -> pd.DataFrame:
    """Frame with no control character in its texts and names: they end drawings, and reach
    terminals.
    """
    columns = frame.select_dtypes(include=["object", "string"])
    texts = {str(name): column.map(_shown) for name, column in columns.items()}
    return frame.assign(**texts).rename(columns=_shown, index=_shown)


def _shown(cell: object) -> object:
    return printable(cell) if isinstance(cell, str) else cell


def _read_records(folder: Path) -> Source:
    paths = list(find_records(folder))
    if not paths:
        raise ValueError(
            f"no record.json below {folder}; run a sweep first, e.g. "
            "python -m experiments.run experiment=demo"
        )
    rows, records, damaged, documents, n_debugging = {}, [], [], Gathered(), 0
    with _without_collection():
        for path, record in zip(paths, _read_each(paths), strict=True):
            if isinstance(record, RunRecord) and record.is_trunk:
                continue  # steps for branches to start from; their records tell of them
            if isinstance(record, RunRecord) and record.is_debugging:
                n_debugging += 1
            elif isinstance(record, RunRecord):
                rows[str(path.parent.relative_to(folder))] = flat_row(record)
                documents.add(record)
                records.append(replace(record, documents={}) if record.documents else record)
            else:
                damaged.append(record)
    said = f"{len(damaged)} of {len(paths)} records are damaged: " + join_first(
        [f"{error.path} ({error.why})" for error in damaged], separator="; "
    )
    if not rows and not damaged and n_debugging:
        raise ValueError(f"{folder} has debugging runs alone (debug=NAME), which are no results")
    if not rows and not damaged:
        raise ValueError(f"{folder} has records of trunks alone; run their branches first")
    if not rows:
        raise ValueError(f"{said}; {damaged[0].remedy}")
    frame = _printable(pd.DataFrame(list(rows.values()), index=list(rows)))
    lines = [f"left out: {said}; {damaged[0].remedy}"] if damaged else []
    lines += [f"left out: {pluralize(n_debugging, 'debugging run')}"] if n_debugging else []
    if lines:
        frame.attrs["damaged"] = printable("; ".join(lines))
    return Source(frame=frame, records=tuple(records), documents=documents.found())


@contextmanager
def _without_collection() -> Iterator[None]:
    """Records have no cycles, and to look for some among many takes a quarter of their reading."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _read_each(paths: Iterable[Path]) -> Iterator[RunRecord | DamagedError]:
    """Each record in turn, or what is wrong with it."""
    for path in paths:
        try:
            yield read_record(path)
        except DamagedError as error:
            yield error
        except OSError as error:  # gone since it was found, or a link to nowhere
            yield DamagedError(path, str(error.strerror), "delete it, or put the file there")


def _read_parquet(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(regular(path, MOST))
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pyarrow: {install('parquet')}") from None
    except (ValueError, OSError) as error:
        why = str(error).strip().replace("\n", " ")
        raise ValueError(f"{path} is not a Parquet file: {why}") from error
    frame.index = pd.Index([f"row {i + 1}" for i in range(len(frame))])
    return frame
