"""One table of a sweep's records: `python -m experiments.collect NAME` writes CSV and Parquet."""

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from experiments.cli import Parser, exit_codes, sweep_argument, sweep_folder
from experiments.records import RECORD_NAME, DamagedError, flat_row, read_record

_HOUR = 3600  # seconds; no collect takes that long


def main() -> None:
    """Writes <sweep>/records.csv and records.parquet, both or neither."""
    parser = Parser(description=(__doc__ or "").partition("\n")[0])
    sweep_argument(parser)
    options = parser.parse_args()
    with exit_codes():
        folder = sweep_folder(options)
        rows = collect_rows(folder)
        for path in write_tables(folder, rows):
            print(path)


def collect_rows(folder: Path) -> list[dict[str, Any]]:
    """A row a record, failed and diverged ones too, as records.flat_row has it.

    Damaged records are left out, and counted and named on stderr. Raises ValueError if there is
    no record yet, or none that can be read.
    """
    rows, damaged = [], []
    for path in sorted(folder.glob(f"*/{RECORD_NAME}")):
        try:
            rows.append(flat_row(read_record(path)))
        except DamagedError as error:
            damaged.append(str(error))
    if damaged:
        print(f"warning: {len(damaged)} damaged records are left out:", file=sys.stderr)
        print("\n".join(f"  {line}" for line in damaged), file=sys.stderr)
    if not rows:
        what = "no record that can be read" if damaged else "no records yet"
        raise ValueError(f"{folder} has {what}; see python -m experiments.status")
    return rows


def write_tables(folder: Path, rows: list[dict[str, Any]]) -> list[Path]:
    """Both are written whole under other names first, then renamed.

    Raises RuntimeError, leaving what was there, if Parquet can't be written.
    """
    import pandas as pd

    from experiments.system.csv_text import to_csv

    for leftover in folder.glob(".table-*"):  # of a collect that was killed
        if time.time() - leftover.stat().st_mtime > _HOUR:
            shutil.rmtree(leftover, ignore_errors=True)
    table = pd.DataFrame(rows)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".table-") as name:
        csv, parquet = Path(name) / "records.csv", Path(name) / "records.parquet"
        csv.write_text(to_csv(table), encoding="utf-8")
        try:
            table.to_parquet(parquet, index=False)
        except ImportError:
            raise RuntimeError(
                "Parquet needs pyarrow: pip install 'expert-isoflops[hub]'"
            ) from None
        return [path.replace(folder / path.name) for path in (csv, parquet)]


if __name__ == "__main__":
    main()
