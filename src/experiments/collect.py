"""One table of a sweep's records: `python -m experiments.collect NAME` writes CSV and Parquet.

With --as the runs are a CSV in the columns of another project's tables, with --card beside it.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.interchange.runs import LAYOUTS, rows_as
from experiments.interchange.runs_card import UNKNOWN, check_licence, runs_card
from experiments.records.app_record import Record
from experiments.records.files import (
    RECORD_NAME,
    DamagedError,
    of_language_model,
    read_any_record,
    record_row,
)
from experiments.records.finished import lacking_rows, rows_note
from experiments.records.record import RunRecord
from experiments.records.uncommitted import uncommitted_note
from experiments.sweep.folders import sweep_argument, sweep_folder
from experiments.system.command import Parser, exit_codes
from experiments.system.disk import (
    OTHER_FOLDER,
    make_folder,
    remove_tree,
    rename,
    sync_tree,
    write_text,
    write_text_atomically,
)
from experiments.system.plain_text import printable
from experiments.system.version import install

if TYPE_CHECKING:
    import pandas as pd

_HOUR = 3600  # seconds; no collect takes that long
_RUNS, _CARD = "runs.csv", "README.md"


def main() -> None:
    """Writes <sweep>/records.csv and records.parquet, both or neither; or what --as asks for."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    parser.add_argument(
        "--as",
        dest="layout",
        choices=list(LAYOUTS),
        help="write <sweep>/<it>/runs.csv instead: the runs that are done, in its columns",
    )
    parser.add_argument(
        "--card",
        action="store_true",
        help="with --as: a dataset card for the Hugging Face hub beside it, README.md",
    )
    parser.add_argument(
        "--license",
        default=UNKNOWN,
        metavar="ID",
        help="with --card: of the table, as the hub names it, e.g. cc-by-4.0 (default: unknown)",
    )
    options = parser.parse_args()
    with exit_codes():
        licence = check_licence(options.license)
        if options.card and options.layout is None:
            raise ValueError("--card is of a table for others; name its form, e.g. --as nanochat")
        if licence != UNKNOWN and not options.card:
            raise ValueError("--license is written in a card; add --card")
        folder = sweep_folder(options)
        if note := rows_note([path.name for path in lacking_rows(folder)]):
            print(f"warning: {note}", file=sys.stderr)
        records = read_records(folder)
        if note := uncommitted_note(records):
            print(f"note: {note}", file=sys.stderr)
        if options.layout is None:
            paths = write_tables(folder, [record_row(record) for record in records])
        else:
            paths = write_as(
                options.layout,
                [of_language_model(folder, record) for record in records],
                folder / options.layout,
                licence if options.card else None,
            )
        for path in paths:
            print(path)


def collect_rows(folder: Path) -> list[dict[str, Any]]:
    """A row a record, failed and diverged ones too, as files.record_row has it. Else as
    read_records.
    """
    return [record_row(record) for record in read_records(folder)]


def read_records(folder: Path) -> list[Record]:
    """As read_runs, but no trunks, which are no results."""
    return [record for record in read_runs(folder).values() if not record.is_trunk]


def read_runs(folder: Path) -> dict[str, Record]:
    """Records of a sweep's folder by the names of their folders: failed and diverged ones, trunks.

    Damaged records are left out, and counted and named on stderr. Raises ValueError if there is
    no record of a result yet, or none that can be read.
    """
    records, damaged = {}, []
    for path in sorted(folder.glob(f"*/{RECORD_NAME}")):
        try:
            records[path.parent.name] = read_any_record(path)
        except DamagedError as error:
            damaged.append(str(error))
    if damaged:
        print(f"warning: {len(damaged)} damaged records are left out:", file=sys.stderr)
        print("\n".join(f"  {printable(line)}" for line in damaged), file=sys.stderr)
    if all(record.is_trunk for record in records.values()):
        what = "no record that can be read" if damaged else "no records yet"
        raise ValueError(f"{folder} has {what}; see python -m experiments.status")
    return records


def write_as(
    name: str, records: list[RunRecord], folder: Path, licence: str | None = None
) -> list[Path]:
    """Writes runs.csv in the columns of LAYOUTS[name]; with a licence README.md, its card.

    Raises ValueError if no run is done, or one lacks what the table needs.
    """
    import pandas as pd

    from experiments.system.csv_text import to_csv

    layout = LAYOUTS[name]
    texts = {_RUNS: to_csv(pd.DataFrame(rows_as(layout, records)))}
    if licence is not None:
        texts[_CARD] = runs_card(layout, records, _RUNS, licence)
    make_folder(folder)
    for file, text in texts.items():
        write_text_atomically(folder / file, text, then=OTHER_FOLDER)
    return [folder / file for file in texts]


def write_tables(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """Both are written whole under other names first, then renamed.

    Raises RuntimeError, leaving what was there, if Parquet can't be written.
    """
    import pandas as pd

    from experiments.system.csv_text import to_csv

    make_folder(folder)
    for leftover in folder.glob(".table-*"):  # of a collect that was killed
        if time.time() - leftover.stat().st_mtime > _HOUR:
            remove_tree(leftover)
    table = pd.DataFrame(rows)
    table = table.apply(_of_one_type)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".table-") as name:
        csv, parquet = Path(name) / "records.csv", Path(name) / "records.parquet"
        write_text(csv, to_csv(table))
        try:
            table.to_parquet(parquet, index=False)
        except ImportError:
            raise RuntimeError(f"Parquet needs pyarrow: {install('parquet')}") from None
        sync_tree(Path(name))
        return [rename(path, folder / path.name) for path in (csv, parquet)]


def _of_one_type(column: "pd.Series[Any]") -> "pd.Series[Any]":
    """Parquet's columns have one type: where an app's values have numbers and texts, texts."""
    if column.dtype != object or len({type(value) for value in column.dropna()}) < 2:
        return column
    return column.map(str, na_action="ignore")


if __name__ == "__main__":
    main()
