"""The record of a run: one record.json, with every column's meaning and unit. Stdlib only.

Analysis reads these and nothing else of the harness; it never recomputes what stands here.
"""

import hashlib
import json
import os
import types
import typing
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from experiments.system.claims import is_claimed
from experiments.system.disk import explained, make_folder, sync_file, write_text_atomically
from experiments.system.json_files import parse_json
from experiments.system.plain_text import may_have_controls, printable, printable_values

RECORD_NAME = "record.json"
CHECKPOINT_NAME = "last.ckpt"  # training/checkpoints.py
HISTORY_NAME = "history.csv"  # the rows of a run's training: training/history.py
CHECKSUM = "sha256"  # last key, of the file's text before it; records of before it have none
_MARK = f',\n "{CHECKSUM}": "'.encode()  # of the record's own level: no string holds a newline
_REMEDY = "delete it, or run the same command again: it goes on from last.ckpt and writes it again"
STATUSES = ("done", "failed", "diverged", "hopeless")
CUT_SHORT = ("diverged", "hopeless")  # ended before their plan, and would again
ENDED = ("done", *CUT_SHORT)
SCHEMA_VERSION = 1
_OF_OUTCOME = ("status", "n_tokens", "batch_tokens", "error", "val_loss")
TRAIN_AGAIN = (  # where a finished run lacks its checkpoint
    f"put a copy of it back, or delete {RECORD_NAME} and run the same command to train again"
)
LACKS_ROWS = f"{HISTORY_NAME} lacks its last rows"
_TAIL = 400  # bytes, more than a row of history.csv has
_NESTED = (
    "config", "environment", "flops_shares", "documents", "evaluations", "init", "before", "stages",
    "trunk", "parts",
)  # fmt: skip
_OF_START = ("how", "train", "flops")
_OF_PARENT = ("run_id", "n_experts", "flops")
_OF_TRUNK = ("n_steps", "flops", "own_steps", "own_flops")
_OF_LAYER = ("n_heads", "top_k", "query_norm")  # keys of the config's model section
_OF_MACHINE = ("device", "kernel")  # of the environment


class DamagedError(ValueError):
    """A file of a run can't be believed: torn, or its checksum is not its own. Names the file and
    the remedy; whoever reads many runs takes it for that run's state, and goes on with the others.
    """

    def __init__(self, path: Path, why: str, remedy: str) -> None:
        super().__init__(f"{path} is damaged ({why}); {remedy}")
        self.path, self.why, self.remedy = path, why, remedy

    def __reduce__(self) -> Any:
        return DamagedError, (self.path, self.why, self.remedy)  # workers send it to their sweep


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """One finished run. FLOPs are training FLOPs, losses are nats per token."""

    run_id: str  # hash of the resolved config without paths, logging and trainer
    sweep: str
    status: str  # done | failed | diverged | hopeless: stopped by trainer.stop_hopeless
    model: str  # the choice of conf/model
    seed: int
    budget: float  # FLOPs asked for
    n_layers: int
    d_model: int
    n_experts: int | None  # of the layer under study; None if it has none
    n_params: int
    n_active_params: int
    n_non_embedding_params: int
    flops_per_token: float  # training: 3x forward, less where weights are frozen
    flops_shares: dict[str, float]  # term -> share of the FLOPs
    planned_flops: float
    n_steps: int
    batch_tokens: int
    n_tokens: int  # trained on, repeats included
    lr: float  # peak, of the backbone
    causal_eval: bool  # False: the evaluation lets positions see later ones (expert choice)
    n_trained_params: int | None = None  # None, of records from before any could be frozen: all
    init: dict[str, Any] = field(default_factory=dict)  # weights started from: hash, how, FLOPs
    before: dict[str, dict[str, Any]] = field(default_factory=dict)  # evaluations at the start
    achieved_flops: float | None = None
    epochs: float | None = None  # n_tokens over the corpus's tokens; None if streamed
    train_loss: float | None = None  # mean of the last tenth of the steps
    val_loss: float | None = None
    perplexity: float | None = None  # exp(val_loss), per token
    bits_per_byte: float | None = None
    bytes_per_token: float | None = None  # of the held-out text
    n_eval_tokens: int | None = None
    documents: dict[str, Any] = field(default_factory=dict)  # held out: training/by_document.py
    evaluations: dict[str, dict[str, Any]] = field(default_factory=dict)  # named set -> its results
    stages: list[dict[str, Any]] = field(default_factory=list)  # of a stream: scores after each
    trunk: dict[str, Any] = field(default_factory=dict)  # of a branch: its id, both parts' FLOPs
    parts: dict[str, Any] = field(default_factory=dict)  # columns of parts that have none above
    tokenizer_sha256: str | None = None
    train_digest: str | None = None  # of the training tokens; None if they were streamed
    usage: float | None = None  # share of experts with weight on the held-out set, mean of layers
    unevenness: float | None = None  # KL to uniform, nats, mean of layers
    wall_seconds: float | None = None  # the whole run: building, training, evaluation
    train_seconds: float | None = None  # in the process that finished it, compiling not included
    compile_seconds: float | None = None  # torch.compile's, in that process; None: it ran eagerly
    tokens_per_second: float | None = None  # in training
    flops_per_second: float | None = None  # in training
    peak_flops_per_second: float | None = None  # measured: the best square product here
    mfu: float | None = None  # flops_per_second / peak_flops_per_second
    peak_memory_bytes: int | None = None
    accelerator: str | None = None  # cpu | cuda: trainer.accelerator's auto, of this run
    precision: str | None = None  # 32-true | bf16-mixed: trainer.precision's auto, of this run
    planned_card: str | None = None  # the cluster's; None: planned for the machine that ran it
    error: str | None = None  # the traceback, if failed
    started: str | None = None  # ISO 8601, UTC
    environment: dict[str, Any] = field(default_factory=dict)  # versions, git, host, device, kernel
    config: dict[str, Any] = field(default_factory=dict)  # resolved
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status={self.status!r} is not one of {', '.join(STATUSES)}")

    @property
    def is_trunk(self) -> bool:
        """Whether it is of a trunk: steps for branches to start from, and no result of a budget."""
        optim = self.config.get("optim")
        return isinstance(optim, dict) and optim.get("schedule") == "trunk"


def write_record(run_dir: Path, record: RunRecord) -> Path:
    """Writes run_dir/record.json, with its checksum, once the rows that it vouches for are on the
    disk; returns its path.
    """
    path, history = run_dir / RECORD_NAME, run_dir / HISTORY_NAME
    text = json.dumps(asdict(record), indent=1).removesuffix("\n}")
    digest = hashlib.sha256(text.encode()).hexdigest()
    with explained(path):
        make_folder(run_dir)
    with explained(history):
        if history.exists():
            sync_file(history)
        sync_file(run_dir)
    write_text_atomically(path, f'{text}{_MARK.decode()}{digest}"\n}}\n')
    return path


def read_record(path: Path) -> RunRecord:
    """Reads one record.json.

    Raises DamagedError if it can't be read, is no record, has a value of another type than its
    column's, or another checksum than its own; FileNotFoundError if there is none.
    """
    with _named(path):
        return _parsed(path.read_bytes())


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The part of a record that a sweep's state needs. n_steps: those that were trained. last_row:
    the step of the last row of history.csv; None of a trunk, whose last steps may have none, and of
    a run that failed.
    """

    status: str
    n_steps: int
    error: str | None
    last_row: int | None = None


def read_outcome(path: Path) -> Outcome:
    """As read_record, of a few fields, and 10 times as fast where the record has a checksum: what
    is right to the byte need not be parsed.
    """
    with _named(path):
        content = path.read_bytes()
        text, verified = _verified(content)
        if verified:
            lines = b",".join(_line_of(text, name) for name in _OF_OUTCOME)
            status, n_tokens, batch_tokens, error, loss = json.loads(b"[%s]" % lines)
        else:
            record = _parsed(content)
            status, n_tokens, batch_tokens, error, loss = (getattr(record, n) for n in _OF_OUTCOME)
        n_steps = n_tokens // max(1, batch_tokens)
        has_last = status in CUT_SHORT or (status == "done" and loss is not None)
        return Outcome(
            status=status, n_steps=n_steps, error=error, last_row=n_steps if has_last else None
        )


def outcome_of(run_dir: Path) -> Outcome | None:
    """That of a run's record; None if it has none that can be read."""
    try:
        return read_outcome(run_dir / RECORD_NAME)
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        return None


def lacks_rows(run_dir: Path, outcome: Outcome) -> bool:
    """Whether history.csv ends before its run did, as after a loss of power, or is not there, and
    last.ckpt is, which has the rows too.
    """
    if outcome.last_row is None:
        return False
    try:
        with (run_dir / HISTORY_NAME).open("rb") as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL))
            *_, last, rest = b"", *file.read().split(b"\n")
    except OSError:
        last, rest = b"", b""
    whole = not rest and last.partition(b",")[0] == str(outcome.last_row).encode()
    return not whole and (run_dir / CHECKPOINT_NAME).exists()


def lacking_rows(folder: Path) -> list[Path]:
    """The folders of the runs below it that lacks_rows is true of; of damaged records none."""
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
    """The first five of names, in words."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


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


def set_aside(path: Path) -> Path:
    """Renames a damaged file to <name>.damaged, or with a number behind; returns the new path."""
    aside, n = path.with_name(f"{path.name}.damaged"), 1
    while aside.exists():
        n += 1
        aside = path.with_name(f"{path.name}.damaged-{n}")
    return path.rename(aside)


def _parsed(content: bytes) -> RunRecord:
    values = parse_json(content)
    if may_have_controls(content):
        values = printable_values(values)
    verified = values.pop(CHECKSUM, None) is not None
    if verified and not _verified(content)[1]:
        raise ValueError("its checksum is not that of its content")
    hints = _hints()
    known = {name: value for name, value in values.items() if name in hints}
    plain = _plain_types()
    for name, value in known.items():  # with a right checksum too, which anybody can compute
        if type(value) not in plain[name] and not _fits(value, hints[name]):
            raise ValueError(f"{name} has a value of another type: {str(value)[:40]!r}")
        if type(value) is int and abs(value) >= 2**63:  # FLOPs, in a column of floats
            known[name] = float(value)
    record = RunRecord(**known)
    for name in ("n_steps", "batch_tokens", "n_layers", "d_model"):
        if getattr(record, name) < 1:
            raise ValueError(f"{name}={getattr(record, name)} is less than 1")
    return record


def _verified(content: bytes) -> tuple[bytes, bool]:
    """The text that a record's checksum is of, and whether it is right."""
    text, mark, end = content.rpartition(_MARK)
    return text, bool(mark) and end == hashlib.sha256(text).hexdigest().encode() + b'"\n}\n'


def _line_of(text: bytes, name: str) -> bytes:
    """The value of a key of the record's own level, which is on one line."""
    start = text.index(b'\n "%s": ' % name.encode()) + len(name) + 6
    end = text.find(b"\n", start)
    return text[start : None if end < 0 else end].removesuffix(b",")


@cache
def _hints() -> dict[str, Any]:
    return typing.get_type_hints(RunRecord)


@cache
def _plain_types() -> dict[str, frozenset[type]]:
    """For each column the types that need no further look: a third of the time of _fits."""
    kinds = {
        name: typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        for name, hint in _hints().items()
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


def flat_row(record: RunRecord) -> dict[str, Any]:
    """The record as a row of a table: its plain columns, then n_heads, top_k and query_norm of the
    layer under study (None if it has none), device and kernel of its environment, share.<term> of
    the FLOPs and <set>.<column> of every evaluation; init.<key> and before.<set>.<column> of a run
    that started from weights; of a branch its trunk's id as trunk, and trunk.<key>; <part>.<key> of
    parts of one's own.
    """
    # Not asdict, which copies what is nested: 7 s of 10,000 records
    row = {name: value for name, value in vars(record).items() if name not in _NESTED}
    given = record.config.get("model")
    layer = given if isinstance(given, dict) else {}
    row |= {name: layer.get(name) for name in _OF_LAYER}
    row |= {name: record.environment.get(name) for name in _OF_MACHINE}
    row |= {f"share.{term}": share for term, share in record.flops_shares.items()}
    row |= {f"init.{key}": record.init[key] for key in _OF_START if key in record.init}
    parent = record.init.get("parent")
    parent = parent if isinstance(parent, dict) else {}
    row |= {f"init.parent.{key}": parent[key] for key in _OF_PARENT if key in parent}
    if record.trunk:
        row["trunk"] = record.trunk.get("run_id")
        row |= {f"trunk.{key}": record.trunk[key] for key in _OF_TRUNK if key in record.trunk}
    for name, columns in record.parts.items():
        values = columns if isinstance(columns, dict) else {}
        row |= {f"{name}.{key}": value for key, value in values.items()}
    for name, scores in record.before.items():
        row |= {f"before.{name}.{column}": value for column, value in scores.items()}
    for name, scores in record.evaluations.items():
        row |= {f"{name}.{column}": value for column, value in scores.items()}
    return row


def finished_record(run_dir: Path) -> RunRecord:
    """The record of a run that is done and has its checkpoint. Raises ValueError for another."""
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


def find_records(folder: Path) -> Iterator[Path]:
    """Every record.json below a folder, in order of path."""
    return iter(sorted(folder.rglob(RECORD_NAME)))


def is_finished(run_dir: Path) -> bool:
    """Whether the run in this folder needs no more work: done, or cut short as it would be again.

    A damaged record says nothing: the run goes on from its checkpoint, and writes it again.
    """
    try:
        return read_record(run_dir / RECORD_NAME).status != "failed"
    except (FileNotFoundError, NotADirectoryError, DamagedError):
        return False
