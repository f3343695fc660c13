"""A sweep's memory: results/<sweep>/manifest.jsonl, a line a point, only ever added to.

A line is a JSON object: run_id, label, planned_flops, n_steps, code, of a branch trunk and
first_step, unit where planned_flops has another than FLOPs, raw (the resolved config) and checksum,
the sha256 of the line's text before it. Lines of earlier versions have no checksum.
"""

import hashlib
import json
import math
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.records.files import DamagedError
from experiments.sweep.app import app_of
from experiments.sweep.point import Point
from experiments.system.claims import Claim, RunningElsewhereError, claimed
from experiments.system.disk import end_line, make_folder, opened, sync, sync_file
from experiments.system.json_files import parse_json
from experiments.system.plain_text import printable
from experiments.system.regular_files import read_regular

MANIFEST_NAME = "manifest.jsonl"
_CONFIG, _CHECKSUM = b', "raw": ', b', "checksum": "'  # JSON escapes quotes: in no string
_KEYS = {"run_id", "label", "planned_flops", "n_steps", "code", "raw"}
FLOPS = "FLOPs"
_POLL = 0.2  # seconds
_SHOWN = 10  # numbers of lines that a message lists


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A point as it was submitted. code: the snapshot's name. config: the resolved config as JSON,
    its paths as App.relocatable leaves them. line: its number in the manifest, from 1; None if
    the point is known from its run's folder alone. trunk: of a branch, its trunk's run id;
    first_step: the steps that the trunk takes; planned_flops are those of the others, in `unit`.
    """

    run_id: str
    label: str
    planned_flops: float
    n_steps: int
    code: str | None
    config: str
    line: int | None = None
    trunk: str | None = None
    first_step: int = 0
    unit: str = FLOPS

    @property
    def raw(self) -> dict[str, Any]:
        """Config as the manifest has it; sweep.restore makes one that can be run."""
        return parse_json(self.config)

    @property
    def model(self) -> str:
        """Choice of conf/model: a label's first word."""
        return self.label.partition(" ")[0]


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """A manifest as far as it could be read: the points by run id, in the order of first lines.

    The other lines have their numbers, with why.
    """

    path: Path
    entries: Mapping[str, Entry]
    damaged: Mapping[int, str]

    def note(self) -> str | None:
        """Which lines are damaged and what to do, in a line; None if none is."""
        if not self.damaged:
            return None
        n, listed = len(self.damaged), [f"{k} ({why})" for k, why in self.damaged.items()]
        lines = ", ".join(listed[:_SHOWN]) + (", ..." if n > _SHOWN else "")
        return (
            f"{self.path}: {n} damaged line{'s' if n > 1 else ''}: {lines}; the command that "
            "started the sweep writes lost points again, then delete the damaged lines"
        )


def make_entry(point: Point, code: str | None) -> Entry:
    app = app_of([point])
    raw = app.relocatable(point.raw, point.sweep_dir)
    return Entry(
        run_id=point.run_id,
        label=point.describe(),
        planned_flops=point.own_work,
        n_steps=point.n_steps,
        code=code,
        config=json.dumps(raw),
        trunk=None if point.branch is None else point.branch.trunk_id,
        first_step=point.first_step,
        unit=app.unit,
    )


@contextmanager
def submitting(sweep_dir: Path) -> Iterator[Claim]:
    """One controller at a time plans and submits; another waits for it. Whoever gives runs to a
    queue calls check() before: of two that see no common lock, one ends there.
    """
    with ExitStack() as stack:
        while True:
            try:
                claim = stack.enter_context(claimed(sweep_dir))
                break
            except RunningElsewhereError:
                time.sleep(_POLL)
        yield claim


def add(sweep_dir: Path, entries: Sequence[Entry]) -> None:
    """Appends lines and sees them to the disk. A run's last line is the one that holds."""
    make_folder(sweep_dir)
    path = sweep_dir / MANIFEST_NAME
    is_new = not path.exists()
    with opened(path, "a+b") as file:
        end_line(file)
        file.writelines(_line(entry) for entry in entries)
        file.flush()
        sync(file.fileno())
    if is_new:
        sync_file(sweep_dir)


def adopt(sweep_dir: Path, points: Sequence[Point]) -> None:
    """Adds those finished points that no line tells of: records from another checkout or sweep.

    Says on stderr which lines of the manifest are damaged.
    """
    found = load(sweep_dir)
    _warn(found)
    unknown = [point for point in points if point.run_id not in found.entries]
    if unknown:
        add(sweep_dir, [make_entry(point, None) for point in unknown])


def read(sweep_dir: Path) -> dict[str, Entry]:
    """Points by run id, in the order of their first lines; damaged lines are a warning on
    stderr.

    Raises ValueError if there is no manifest, or no point in it.
    """
    path = sweep_dir / MANIFEST_NAME
    if not path.exists():
        raise ValueError(
            f"{sweep_dir} is not a sweep: it has no {MANIFEST_NAME}; name a sweep, or give "
            "paths.results=... where the results are"
        )
    found = load(sweep_dir)
    _warn(found)
    if not found.entries:
        what = "no line that can be read" if found.damaged else "no points: it is empty"
        raise ValueError(f"{path} has {what}; the command that started the sweep writes it again")
    return dict(found.entries)


def load(sweep_dir: Path) -> Manifest:
    """Manifest's content; empty without a manifest. Raises DamagedError if it is a
    folder.
    """
    path = sweep_dir / MANIFEST_NAME
    try:
        content = read_regular(path)
    except FileNotFoundError:
        content = b""
    except IsADirectoryError:
        remedy = "move it away; the command that started the sweep writes the manifest again"
        raise DamagedError(path, "it is a folder", remedy) from None
    entries: dict[str, Entry] = {}
    damaged: dict[int, str] = {}
    for number, line in enumerate(content.split(b"\n"), 1):
        if line.strip():
            try:
                entry = _entry(line.strip(), number)
            except ValueError as error:
                damaged[number] = str(error)
            else:
                entries[entry.run_id] = entry
    return Manifest(path=path, entries=entries, damaged=damaged)


def _warn(found: Manifest) -> None:
    note = found.note()
    if note:
        print(printable(f"warning: {note}"), file=sys.stderr)


def _line(entry: Entry) -> bytes:
    head = {
        "run_id": entry.run_id,
        "label": entry.label,
        "planned_flops": entry.planned_flops,
        "n_steps": entry.n_steps,
        "code": entry.code,
    }
    if entry.trunk is not None:
        head |= {"trunk": entry.trunk, "first_step": entry.first_step}
    if entry.unit != FLOPS:
        head["unit"] = entry.unit
    text = json.dumps(head).encode()[:-1] + _CONFIG + entry.config.encode()
    return text + _CHECKSUM + hashlib.sha256(text).hexdigest().encode() + b'"}\n'


def _entry(line: bytes, number: int) -> Entry:
    """Raises ValueError, saying in a few words what is wrong.

    Of a line whose checksum is right the config is not parsed: 10,000 lines are 30 MB.
    """
    text, mark, checksum = line.rpartition(_CHECKSUM)
    if mark:
        if hashlib.sha256(text).hexdigest().encode() + b'"}' != checksum:
            raise ValueError("wrong checksum")
        head, mark, config = text.partition(_CONFIG)
        if not mark:
            raise ValueError("no raw")
        return _checked(parse_json(head + b"}"), config.decode(), number)
    try:
        values = parse_json(line)
    except ValueError:  # bytes that are no UTF-8 too
        raise ValueError("cut short or garbled") from None
    if set(values) != _KEYS:
        raise ValueError("not a point's keys")
    raw = values.pop("raw")
    if not isinstance(raw, dict):
        raise ValueError("raw is not a config")
    return _checked(values, json.dumps(raw), number)


def _checked(values: dict[str, Any], config: str, number: int) -> Entry:
    """Entry, if every value has its type."""
    run_id, flops, n_steps = values["run_id"], values["planned_flops"], values["n_steps"]
    if not isinstance(run_id, str) or not re.fullmatch(r"\w[\w-]*", run_id):  # names a folder
        raise ValueError("run_id is not a run id")
    if type(n_steps) is not int or n_steps < 1:
        raise ValueError(f"n_steps={n_steps!r}")
    if type(flops) not in (int, float) or not 0 <= flops < math.inf:
        raise ValueError(f"planned_flops={flops!r}")
    trunk, first_step = values.get("trunk"), values.get("first_step", 0)
    if not isinstance(trunk, str | None) or type(first_step) is not int or first_step < 0:
        raise ValueError("trunk or first_step is none")
    if not isinstance(values.get("unit", FLOPS), str):
        raise ValueError("unit is not text")
    if not isinstance(values["label"], str) or not isinstance(values["code"], str | None):
        raise ValueError("label or code is not text")
    return Entry(**{**values, "label": printable(values["label"])}, config=config, line=number)
