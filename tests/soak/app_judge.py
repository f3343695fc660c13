"""Whether a sweep of walks that was disturbed left what the undisturbed one leaves."""

import csv
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.system.claims import is_claimed, read_events
from tests.soak.app_sweeps import Sweep
from tests.soak.judge import DIFFERING, DOUBLED, LEFT_OVER, LOST, WRONG, Problem
from tests.soak.walk.walk import SIZE, Walk, next_place

_VARYING = ("wall_seconds", "started", "environment", "sha256", "checksum")
_OF_RUN = {
    "record.json", "config.yaml", "history.csv", "events.jsonl", "last.ckpt", "log.txt",
    "progress.json", ".claim",
}  # fmt: skip
_OF_SWEEP = {
    "manifest.jsonl", "app.json", ".claim", ".code", ".controllers", "workers", "status.html",
}  # fmt: skip


@dataclass(frozen=True)
class Line:
    """Of a diary: which process, when, what it did, and at which step."""

    pid: int
    time: float
    what: str
    step: int


def fingerprint(sweep: Sweep) -> dict[str, Any]:
    """Records by run id, but for times and places."""
    found = {}
    for folder in sweep.run_dirs():
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        kept = {key: value for key, value in record.items() if key not in _VARYING}
        kept["config"] = {k: v for k, v in kept["config"].items() if k != "diary"}
        found[folder.name] = kept
    return found


def judge(sweep: Sweep, expected: dict[str, Any], *, forgiven: bool) -> Iterator[Problem]:
    """All that is wrong with a sweep that is done. forgiven: its disk was full or a process was
    killed, so that a journal may lack its last line.
    """
    for run_id, wanted in expected.items():
        folder = sweep.sweep_dir / run_id
        seed = wanted["config"]["seed"]
        diary = sweep.diary / str(seed)
        if not diary.exists():
            yield Problem(kind=LOST, text=f"seed {seed} has never begun")
            continue
        lines = [_line(text) for text in diary.read_text().splitlines()]
        said = [*_of_record(folder, wanted), *_of_journal(folder, forgiven)]
        asks = seed != wanted["config"]["forgets"]
        said += [*_of_diary(lines, asks), *_of_history(folder, lines, wanted, asks)]
        yield from (Problem(kind=kind, text=f"seed {seed}: {text}") for kind, text in said)
    strangers = {path.name for path in sweep.sweep_dir.iterdir()} - _OF_SWEEP - set(expected)
    waiting = sweep.sweep_dir / "workers" / "waiting"
    strangers |= {f"waiting/{p.name}" for p in waiting.iterdir()} if waiting.is_dir() else set()
    if strangers:
        yield Problem(kind=LEFT_OVER, text=_some(strangers))


def _of_record(folder: Path, wanted: dict[str, Any]) -> Iterator[tuple[str, str]]:
    try:
        record = json.loads((folder / "record.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        yield LOST, f"{type(error).__name__}: {error}"
        return
    if record["status"] != "done":
        yield LOST, f"status {record['status']}: {str(record.get('error')).strip()[-200:]}"
    record["config"].pop("diary", None)
    names = {*wanted, *record} - set(_VARYING)
    differing = [name for name in names if wanted.get(name) != record.get(name)]
    if differing:
        yield DIFFERING, f"record: {_some(differing)}"
    strangers = {path.name for path in folder.iterdir()} - _OF_RUN
    if strangers:
        yield LEFT_OVER, _some(strangers)
    if is_claimed(folder):
        yield WRONG, "it still holds its claim"


def _of_journal(folder: Path, forgiven: bool) -> Iterator[tuple[str, str]]:
    names = [event["event"] for event in read_events(folder)]
    if (n := names.count("done")) > 1 or not (n or forgiven):
        yield DOUBLED if n else LOST, f"{n} times done: {names}"
    if "done" in names and "started" in names[names.index("done") :]:
        yield DOUBLED, f"started after it was done: {names}"


def _of_diary(lines: list[Line], asks: bool) -> Iterator[tuple[str, str]]:
    """Each start where it was saved, each step by one process, none unsaved for too long."""
    kept, may = 0, {0}  # the step that is surely saved, and those that may be
    holder, since = 0, 0.0  # the process that started last, and when it last saved
    for line, then in zip(lines, [*lines[1:], None]):
        if line.what == "again":
            yield DOUBLED, "it was done, and was run again"
        elif line.what == "holds":
            if then is not None and then.pid == line.pid and then.step != line.step:
                yield WRONG, f"started at step {then.step} with what was saved at {line.step}"
        elif line.what == "started":
            holder, since = line.pid, line.time
            if asks and line.step < kept:
                yield LOST, f"started at step {line.step}, after {kept} was saved"
            if line.step not in may:
                yield WRONG, f"started at step {line.step}, which was not saved"
        elif line.pid != holder:
            yield DOUBLED, f"process {line.pid} did step {line.step} when {holder} had the run"
            return
        elif line.what == "saving":
            may.add(line.step)
            if then is not None and then.pid == line.pid:  # the step came to its end
                kept, since = line.step, then.time
        elif line.what == "takes" and then is not None and then.pid == line.pid:
            late = line.time - since
            if late >= Walk.save_seconds and then.what == "took":
                yield LOST, f"step {line.step} was not saved, {late:.3f} s after the last one"
                return


def _of_history(
    folder: Path, lines: list[Line], wanted: dict[str, Any], asks: bool
) -> Iterator[tuple[str, str]]:
    """Rows that rise and are the walk's. A process writes one at its first step, which stays until
    another starts before it; and one at the last.
    """
    seed, last = wanted["config"]["seed"], wanted["n_steps"]
    places = [seed]
    for step in range(1, last + 1):
        places.append(next_place(places[-1], step))
    try:
        with (folder / "history.csv").open(newline="", encoding="utf-8") as file:
            rows = [(int(row["step"]), row["loss"]) for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError, KeyError) as error:
        yield DIFFERING, f"history: {type(error).__name__}: {error}"
        return
    steps = [step for step, _ in rows]
    if steps != sorted(set(steps)):
        yield DOUBLED, f"steps of the history don't rise: {steps}"
    if any(loss != f"{places[step] / SIZE:.9g}" for step, loss in rows):
        yield DIFFERING, "history: a loss is not that of its step"
    must = [last]
    for line in lines:
        if line.what == "started":
            must = [last, *(step for step in must[1:] if step <= line.step)]
        elif line.what == "took" and _is_first(line, lines):
            must.append(line.step)
    if missing := sorted(set(must) - set(steps)):
        yield LOST, f"history lacks steps {missing}: {steps}"


def _is_first(line: Line, lines: list[Line]) -> bool:
    """Whether a step is the first of its process."""
    return next(one for one in lines if one.pid == line.pid and one.what == "took") is line


def _line(text: str) -> Line:
    pid, time, what, step = text.split()
    return Line(int(pid), float(time), what, int(step))


def _some(names: Iterable[str]) -> str:
    return ", ".join(sorted(names)[:6])
