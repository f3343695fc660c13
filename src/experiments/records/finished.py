"""Whether a run's folder is finished: its record, its checkpoint and its last rows. Stdlib only."""

import os
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from experiments.records.app_record import Record
from experiments.records.files import (
    CHECKPOINT_NAME,
    HISTORY_NAME,
    RECORD_NAME,
    DamagedError,
    Outcome,
    find_records,
    of_language_model,
    read_any_record,
    read_outcome,
    read_record,
    set_aside,
)
from experiments.records.record import RunRecord
from experiments.system.claims import is_claimed
from experiments.system.plain_text import printable
from experiments.system.regular_files import open_regular

_TAIL = 400  # bytes, more than a row of history.csv has
LACKS_ROWS = f"{HISTORY_NAME} lacks its last rows"
TRAIN_AGAIN = (  # where a finished run lacks its checkpoint
    f"put a copy of it back, or delete {RECORD_NAME} and run the same command to train again"
)


def find_outcome(run_dir: Path) -> Outcome | None:
    """That of a run's record; None if it has none that can be read."""
    try:
        return read_outcome(run_dir / RECORD_NAME)
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        return None


def ended_record(run_dir: Path, *, aside: bool = False) -> RunRecord | None:
    """As ended_any_record, of a language model. Raises ValueError for another app's."""
    found = ended_any_record(run_dir, aside=aside)
    return None if found is None else of_language_model(run_dir, found)


def ended_any_record(run_dir: Path, *, aside: bool = False) -> Record | None:
    """Record of a run that needs no more work: done, or cut short as it would be again.

    A damaged record says nothing: the run goes on from its checkpoint, and writes it again. aside:
    it then gets another name, with a warning, unless it can't be read; for who holds the run.
    """
    path = run_dir / RECORD_NAME
    try:
        record = read_any_record(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except DamagedError as error:
        if aside and isinstance(error.__cause__, OSError):
            raise  # it may be whole, and of somebody else
        if aside:
            warnings.warn(f"{error}; it is kept as {set_aside(path).name}", stacklevel=2)
        return None
    return None if record.status == "failed" else record


def finished_record(run_dir: Path) -> RunRecord:
    """Record of a run that is done and has its checkpoint. Raises ValueError for another."""
    path = run_dir / RECORD_NAME
    if not path.exists():
        raise ValueError(_unfinished(run_dir))
    record = read_record(path)
    if record.status != "done":
        raise ValueError(f"{run_dir} is {record.status}, and only a run that is done can be used")
    if not (run_dir / CHECKPOINT_NAME).exists():
        raise ValueError(f"{run_dir} has no {CHECKPOINT_NAME} to read; {TRAIN_AGAIN}")
    return record


def _unfinished(run_dir: Path) -> str:
    """Why a folder without a record can't be used, in words."""
    if is_claimed(run_dir):
        return (
            f"{run_dir} is still training: {RECORD_NAME} comes with its end; wait (python -m "
            "experiments.status says how far it is)"
        )
    begun = (run_dir / CHECKPOINT_NAME).exists()
    why = "; it was stopped before its end, and the command that began it goes on" if begun else ""
    return f"{run_dir} is not a finished run: it has no {RECORD_NAME}{why}"


def lacks_rows(run_dir: Path, outcome: Outcome) -> bool:
    """Whether history.csv ends before its run did, as after a loss of power, or is not there, and
    last.ckpt is, which has the rows too.
    """
    if outcome.last_row is None:
        return False
    try:
        with open_regular(run_dir / HISTORY_NAME) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            *_, last, rest = b"", *file.read().split(b"\n")
    except OSError:
        last, rest = b"", b""
    whole = not rest and last.partition(b",")[0] == str(outcome.last_row).encode()
    return not whole and (run_dir / CHECKPOINT_NAME).exists()


def lacking_rows(folder: Path) -> list[Path]:
    """Folders of the runs below it that lacks_rows is true of; of damaged records none."""
    found = []
    for path in find_records(folder):
        with suppress(FileNotFoundError, DamagedError):
            if lacks_rows(path.parent, read_outcome(path)):
                found.append(path.parent)
    return found


def rows_note(run_ids: Sequence[str]) -> str | None:
    """A line about runs of lacks_rows, with the remedy; None for none of them."""
    if not run_ids:
        return None
    return (
        f"{LACKS_ROWS} in {len(run_ids)} finished runs ({printable(some(run_ids))}); the command "
        "that started the sweep, or retry, writes them from last.ckpt"
    )


def some(names: Sequence[str]) -> str:
    """First five of names, in words."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
