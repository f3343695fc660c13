"""Reads what a table can be made from, as it stands: a sweep's records, a CSV, a Parquet file."""

from pathlib import Path

import pandas as pd

from experiments.records import find_records, flat_row, read_record


def read_frame(path: str | Path) -> pd.DataFrame:
    """A folder's record.json files or a file's rows; the index names each, e.g. "line 7".

    Raises ValueError naming the path if it is missing, not to be read, or has no rows.
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
    return frame


def _read_records(folder: Path) -> pd.DataFrame:
    paths = list(find_records(folder))
    if not paths:
        raise ValueError(
            f"no record.json below {folder}; run a sweep first, e.g. "
            "python -m experiments.run experiment=demo"
        )
    names = [str(path.parent.relative_to(folder)) for path in paths]
    return pd.DataFrame([flat_row(read_record(path)) for path in paths], index=names)


def _read_csv(path: Path) -> pd.DataFrame:
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
    return frame


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
