"""Whether a run that was disturbed left what the undisturbed one leaves: to the bit."""

import csv
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from experiments.system.claims import is_claimed, read_events

LOST, DOUBLED, DIFFERING, LEFT_OVER, HANG, WRONG = VERDICTS = (
    "lost", "doubled", "differing", "leftover", "hang", "wrong",
)  # fmt: skip
_VARYING = {  # of a record: speeds, times, and where it ran
    "wall_seconds", "train_seconds", "compile_seconds", "tokens_per_second", "flops_per_second",
    "mfu", "sha256", "peak_flops_per_second", "peak_memory_bytes", "started", "environment",
    "checksum",
}  # fmt: skip
_OF_HISTORY = ("step", "n_tokens", "flops", "loss", "lr")
KNOWN_FILES = {
    "record.json", "config.yaml", "environment.json", "history.csv", "events.jsonl", "last.ckpt",
    "log.txt", "progress.json", ".claim",
}  # fmt: skip
KNOWN_OF_SWEEP = {
    "status.html",
    "manifest.jsonl",
    ".claim",
    ".code",
    ".controllers",
    "slurm",
    "search.journal",
}


@dataclass(frozen=True, kw_only=True)
class Problem:
    """What a disturbed run did that it must not. kind: one of VERDICTS."""

    kind: str
    text: str


def fingerprint(run_dir: Path) -> dict[str, Any]:
    """All of a finished run that has to be the same however often it was interrupted: the record
    but for speeds and times, the history's rows as text, every tensor's CRC.
    """
    record = json.loads((run_dir / "record.json").read_text(encoding="utf-8"))
    config = {k: v for k, v in record["config"].items() if k != "paths"}
    kept = {k: v for k, v in record.items() if k not in _VARYING}
    with (run_dir / "history.csv").open(newline="", encoding="utf-8") as file:
        rows = [[str(row.get(name)) for name in _OF_HISTORY] for row in csv.DictReader(file)]
    checkpoint = torch.load(run_dir / "last.ckpt", map_location="cpu", weights_only=True)
    return {
        "record": json.loads(json.dumps({**kept, "config": config})),
        "history": rows,
        "tensors": dict(_tensors(checkpoint)),
        "generators": _generators(checkpoint),
    }


def compare(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[Problem]:
    """What of two fingerprints differs; a history's doubled and missing rows are named so."""
    problems = []
    for part in ("record", "tensors", "generators"):
        names = _differing(expected[part], found[part])
        if names:
            problems.append(Problem(kind=DIFFERING, text=f"{part}: {_some(names)}"))
    return problems + _compare_rows(expected["history"], found["history"])


def judge(
    run_dir: Path, expected: Mapping[str, Any], *, n_done: int = 1, files: Iterable[str] = ()
) -> list[Problem]:
    """What is wrong with a run after the command that was to finish it.

    n_done: how often it may have been done, more than once where its record was damaged by us.
    files: names that may be there beside the known.
    """
    try:
        found = fingerprint(run_dir)
    except Exception as error:
        return [Problem(kind=LOST, text=f"{type(error).__name__}: {error}")]
    if found["record"]["status"] != "done":
        return [Problem(kind=LOST, text=f"status {found['record']['status']}")]
    problems = compare(expected, found)
    names = [event.get("event") for event in read_events(run_dir)]
    if names.count("done") > n_done:
        problems.append(Problem(kind=DOUBLED, text=f"{names.count('done')} times done: {names}"))
    if n_done == 1 and "done" in names and "started" in names[names.index("done") :]:
        problems.append(Problem(kind=DOUBLED, text=f"started after it was done: {names}"))
    strangers = {path.name for path in run_dir.iterdir()} - KNOWN_FILES - set(files)
    strangers |= {path.name for path in run_dir.parent.iterdir() if not path.is_dir()} - (
        KNOWN_OF_SWEEP
    )
    if strangers:
        problems.append(Problem(kind=LEFT_OVER, text=_some(sorted(strangers))))
    if is_claimed(run_dir):
        problems.append(Problem(kind=WRONG, text="it still holds its claim"))
    return problems


def _compare_rows(expected: list[list[str]], found: list[list[str]]) -> list[Problem]:
    if found == expected:
        return []
    steps, wanted = [row[0] for row in found], [row[0] for row in expected]
    problems = []
    doubled = sorted({step for step in steps if steps.count(step) > 1})
    if doubled:
        problems.append(Problem(kind=DOUBLED, text=f"history steps {_some(doubled)}"))
    missing = [step for step in wanted if step not in steps]
    changed = [row[0] for row in found if row not in expected]
    text = f"history: {len(found)} rows of {len(expected)}"
    text += f", missing {_some(missing)}" * bool(missing)
    text += f", changed {_some(changed)}" * bool(changed)
    return [*problems, Problem(kind=DIFFERING, text=text)]


def _tensors(node: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every tensor of a checkpoint: its dotted name, and dtype, shape and CRC of its bytes."""
    if isinstance(node, torch.Tensor):
        data = node.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        yield name, f"{node.dtype} {tuple(node.shape)} {zlib.crc32(data):08x}"
    elif isinstance(node, Mapping):
        for key, value in node.items():
            if key == "clock":
                continue  # of the history: seconds
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
    elif isinstance(node, (list, tuple)):
        for i, value in enumerate(node):
            yield from _tensors(value, f"{name}.{i}")


def _generators(checkpoint: Mapping[str, Any]) -> dict[str, str]:
    """States of Python's, NumPy's and torch's generators, as CRCs."""
    states = checkpoint["callbacks"]["RandomState"]
    return {name: f"{zlib.crc32(repr(value).encode()):08x}" for name, value in states.items()}


def _differing(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    missing = object()
    names = [*expected, *(name for name in found if name not in expected)]
    return [n for n in names if expected.get(n, missing) != found.get(n, missing)]


def _some(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + f", ... ({len(names)})" * (len(names) > most)
