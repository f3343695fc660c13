"""A sweep's memory: results/<sweep>/manifest.jsonl, a line a point, only ever added to."""

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from experiments.point import Point

MANIFEST_NAME = "manifest.jsonl"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A point as it was submitted. raw: its resolved config. code: the snapshot's name."""

    run_id: str
    label: str
    planned_flops: float
    n_steps: int
    raw: dict[str, Any]
    code: str | None


def entry_of(point: Point, code: str | None) -> Entry:
    """The line of a point. Its paths are absolute: a task may start in another folder."""
    paths = {
        name: str(Path(path).expanduser().resolve()) for name, path in point.raw["paths"].items()
    }
    return Entry(
        run_id=point.run_id,
        label=point.describe(),
        planned_flops=point.plan.planned_flops,
        n_steps=point.plan.n_steps,
        raw={**point.raw, "paths": paths},
        code=code,
    )


@contextmanager
def submitting(sweep_dir: Path) -> Iterator[None]:
    """One controller at a time plans and submits; another waits for it."""
    sweep_dir.mkdir(parents=True, exist_ok=True)
    with (sweep_dir / ".submitting").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def add(sweep_dir: Path, entries: Sequence[Entry]) -> None:
    """Appends lines and sees them to the disk. A run's last line is the one that holds."""
    sweep_dir.mkdir(parents=True, exist_ok=True)
    path = sweep_dir / MANIFEST_NAME
    cut_short = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
    with path.open("a", encoding="utf-8") as file:
        if cut_short:  # by a kill: that line is lost, the next must not be
            file.write("\n")
        file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
        file.flush()
        os.fsync(file.fileno())


def adopt(sweep_dir: Path, points: Sequence[Point]) -> None:
    """Adds those finished points that no line tells of: records from another checkout or sweep."""
    known = read(sweep_dir) if (sweep_dir / MANIFEST_NAME).exists() else {}
    unknown = [point for point in points if point.run_id not in known]
    if unknown:
        add(sweep_dir, [entry_of(point, None) for point in unknown])


def read(sweep_dir: Path) -> dict[str, Entry]:
    """The points by run id, in the order of their first lines.

    Raises ValueError if there is no manifest.
    """
    path = sweep_dir / MANIFEST_NAME
    if not path.exists():
        raise ValueError(
            f"{sweep_dir} is no sweep: it has no {MANIFEST_NAME}; name a sweep, or give "
            "paths.results=... where the results are"
        )
    entries: dict[str, Entry] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry = Entry(**json.loads(line))
        except (ValueError, TypeError):
            continue  # cut short by a kill
        entries[entry.run_id] = entry
    return entries


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
