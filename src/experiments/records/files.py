"""One record.json a run, with its checksum: written, read, and refused where it is damaged."""

import hashlib
import json
import types
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from experiments.records.app_record import AppRecord, Record, app_row
from experiments.records.record import CUT_SHORT, STATUSES, RunRecord, flat_row
from experiments.system.disk import explained, make_folder, rename, sync_file, write_text_atomically
from experiments.system.json_files import parse_json
from experiments.system.plain_text import may_have_controls, printable_values
from experiments.system.regular_files import read_regular

RECORD_NAME = "record.json"
CHECKPOINT_NAME = "last.ckpt"  # training/checkpoints.py
HISTORY_NAME = "history.csv"  # the rows of a run's training: training/history.py
CHECKSUM = "sha256"  # last key, of the file's text before it; records of before it have none
_MARK = f',\n "{CHECKSUM}": "'.encode()  # of the record's own level: no string holds a newline
_REMEDY = "delete it, or run the same command again: it goes on from last.ckpt and writes it again"
_OF_APP = b',\n "app": "'  # of an AppRecord's own level
_OF_OUTCOME = ("status", "n_tokens", "batch_tokens", "error", "val_loss", "n_params")


class DamagedError(ValueError):
    """A file of a run can't be believed: torn, or its checksum is not its own. Names the file and
    the remedy; whoever reads many runs takes it for that run's state, and goes on with the others.
    """

    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({why}); {remedy}")
        self.path, self.why, self.remedy = path, why, remedy

    def __reduce__(self) -> Any:
        return DamagedError, (self.path, self.why, self.remedy)  # workers send it to their sweep


def write_record(run_dir: Path, record: Record) -> Path:
    """Writes run_dir/record.json, with its checksum, once the rows that it vouches for are on the
    disk; returns its path.
    """
    path, history = run_dir / RECORD_NAME, run_dir / HISTORY_NAME
    text = _text(asdict(record)).removesuffix("\n}")
    digest = hashlib.sha256(text.encode()).hexdigest()
    with explained(path):
        make_folder(run_dir)
    with explained(history):
        if history.exists():
            sync_file(history)
        sync_file(run_dir)
    write_text_atomically(path, f'{text}{_MARK.decode()}{digest}"\n}}\n')
    return path


def _text(value: Any, level: int = 0) -> str:
    """JSON with a key a line and each list on its key's: a record's are columns of documents."""
    if not isinstance(value, dict) or not value:
        return json.dumps(value)
    indent = "\n" + " " * level
    lines = [f"{json.dumps(str(key))}: {_text(own, level + 1)}" for key, own in value.items()]
    return "{" + ",".join(f"{indent} {line}" for line in lines) + indent + "}"


def read_record(path: Path) -> RunRecord:
    """Reads one record.json of a language model.

    Raises DamagedError if it can't be read, is no record, has a value of another type than its
    column's, or another checksum than its own; FileNotFoundError if there is none; ValueError if it
    is another app's.
    """
    return of_language_model(path, read_any_record(path))


def of_language_model(path: Path, record: Record) -> RunRecord:
    """Returns the record. Raises ValueError if it is another app's."""
    if isinstance(record, AppRecord):
        raise ValueError(
            f"{path} is of {record.app}, which trains no language model; experiments.status and "
            "experiments.collect read it"
        )
    return record


def read_any_record(path: Path) -> Record:
    """As read_record, of whichever app's run."""
    with _named(path):
        return _parsed(read_regular(path))


def record_row(record: Record) -> dict[str, Any]:
    """Record as a row of a table, whichever app's it is."""
    return app_row(record) if isinstance(record, AppRecord) else flat_row(record)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Part of a record that a sweep's state needs. n_steps: those that were trained. last_row:
    the step of the last row of history.csv; None of a trunk, whose last steps may have none, and of
    a run that failed. loss: held out, in nats per token. n_params: all of them.
    """

    status: str
    n_steps: int
    error: str | None
    last_row: int | None = None
    loss: float | None = None
    n_params: int | None = None


def read_outcome(path: Path) -> Outcome:
    """As read_record, of a few fields, and 10 times as fast where the record has a checksum: what
    is right to the byte need not be parsed.
    """
    with _named(path):
        content = read_regular(path)
        text, verified = _verified(content)
        if _OF_APP in content:
            return _outcome_of_app(_parsed(content))
        if verified:
            lines = b",".join(_find_line(text, name) for name in _OF_OUTCOME)
            found = json.loads(b"[%s]" % lines)
        else:
            record = _parsed(content)
            found = [getattr(record, name) for name in _OF_OUTCOME]
        status, n_tokens, batch_tokens, error, loss, n_params = _checked_outcome(found)
        n_steps = n_tokens // max(1, batch_tokens)
        has_last = status in CUT_SHORT or (status == "done" and loss is not None)
        return Outcome(
            status=status,
            n_steps=n_steps,
            error=error,
            last_row=n_steps if has_last else None,
            loss=loss,
            n_params=n_params,
        )


def _outcome_of_app(record: Record) -> Outcome:
    assert isinstance(record, AppRecord)
    return Outcome(
        status=record.status, n_steps=record.n_steps, error=record.error, loss=record.loss
    )


def _checked_outcome(found: list[Any]) -> list[Any]:
    """Values of _OF_OUTCOME, if each has its column's type: anybody can compute a checksum."""
    for name, value in zip(_OF_OUTCOME, found, strict=True):
        plain, hint = _plain_types(RunRecord)[name], _hints(RunRecord)[name]
        if type(value) not in plain and not _fits(value, hint):
            raise ValueError(f"{name} has a value of another type: {str(value)[:40]!r}")
    if found[0] not in STATUSES:
        raise ValueError(f"status={str(found[0])[:40]!r} is not one of {', '.join(STATUSES)}")
    return found


def find_records(folder: Path) -> Iterator[Path]:
    """Every record.json below a folder, in order of path."""
    return iter(sorted(folder.rglob(RECORD_NAME)))


def set_aside(path: Path) -> Path:
    """Renames a damaged file to <name>.damaged, or with a number behind; returns the new path."""
    aside, n = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        n += 1
        aside = path.with_name(f"{path.name}.damaged-{n}")
    return rename(path, aside)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns what reading a record raises into a DamagedError, but for a file that is not there."""
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise
    except OSError as error:
        why = f"it can't be read: {error.strerror}"
        raise DamagedError(path, why, "make it a readable file, or delete it") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedError(path, f"not a run record: {error}", _REMEDY) from error


def _parsed(content: bytes) -> Record:
    values = parse_json(content)
    if may_have_controls(content):
        values = printable_values(values)
    verified = values.pop(CHECKSUM, None) is not None
    if verified and not _verified(content)[1]:
        raise ValueError("its checksum is not that of its content")
    kind = AppRecord if _OF_APP in content else RunRecord
    hints = _hints(kind)
    known = {name: value for name, value in values.items() if name in hints}
    plain = _plain_types(kind)
    for name, value in known.items():  # with a right checksum too, which anybody can compute
        if type(value) not in plain[name] and not _fits(value, hints[name]):
            raise ValueError(f"{name} has a value of another type: {str(value)[:40]!r}")
        if type(value) is int and abs(value) >= 2**63:  # FLOPs, in a column of floats
            known[name] = float(value)
    if kind is AppRecord:
        return AppRecord(**known)
    record = RunRecord(**known)
    for name in ("n_steps", "batch_tokens", "n_layers", "d_model"):
        if getattr(record, name) < 1:
            raise ValueError(f"{name}={getattr(record, name)} is less than 1")
    return record


def _verified(content: bytes) -> tuple[bytes, bool]:
    """Text that a record's checksum is of, and whether it is right."""
    text, mark, end = content.rpartition(_MARK)
    return text, bool(mark) and end == hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


def _find_line(text: bytes, name: str) -> bytes:
    """Value of a key of the record's own level, which is on one line."""
    start = text.index(b'\n "%s": ' % name.encode()) + len(name) + 6
    end = text.find(b"\n", start)
    return text[start : None if end < 0 else end].removesuffix(b",")


@cache
def _hints(kind: Any) -> dict[str, Any]:
    return typing.get_type_hints(kind)


@cache
def _plain_types(kind: Any) -> dict[str, frozenset[type]]:
    """For each column the types that need no further look: a third of the time of _fits."""
    kinds = {
        name: typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for name, hint in _hints(kind).items()
    }
    plain = (float, str, types.NoneType)
    return {name: frozenset(t for t in found if t in plain) for name, found in kinds.items()}


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value of JSON has the type of a column."""
    if hint is Any:
        return True
    if isinstance(hint, types.UnionType):
        return any(_fits(value, option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is dict:
        of_values = typing.get_args(hint)[1]
        return isinstance(value, dict) and all(_fits(v, of_values) for v in value.values())
    if typing.get_origin(hint) is list:
        return isinstance(value, list) and all(_fits(v, typing.get_args(hint)[0]) for v in value)
    if hint in (int, float) and isinstance(value, bool):
        return False
    if hint is int and isinstance(value, int) and abs(value) >= 2**63:  # as tables have them
        return False
    return isinstance(value, (int, float) if hint is float else hint)
