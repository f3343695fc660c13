"""How long status, collect and analyses of a sweep of 10,000 points take.

Each command is a process of its own, from its start to its end, on a sweep made up for it.
"""

import os
import subprocess
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from experiments.benchmarks.core.made_sweep import make_sweep
from experiments.system.command import at_least
from experiments.system.disk import followed
from experiments.system.text_table import aligned

_SMALL = 32  # points
_STUDY = 130  # points, of which a report is made
_REPEATS = 3


@dataclass(frozen=True, kw_only=True)
class _Command:
    """limit: seconds of wall time, for 10,000 points and the small sweeps; n_points: of these."""

    name: str
    words: tuple[str, ...]
    limit: float
    repeats: int = _REPEATS
    n_points: int | None = None  # None: the large sweep's


def arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--points", type=at_least(1), default=10_000, help="of the sweep (default 10000)"
    )


def run(options: Namespace) -> None:
    """Prints each command's seconds beside its limit; exits with 1 if one is missed."""
    with tempfile.TemporaryDirectory(prefix="experiments-bench-") as name:
        folder = followed(Path(name)) / "results"
        print(f"making a sweep of {options.points} points in {folder}", file=sys.stderr)
        make_sweep(folder / "big", options.points)
        make_sweep(folder / "small", min(_SMALL, options.points))
        make_sweep(folder / "study", min(_STUDY, options.points))
        missed = _measure(_commands(folder), options.points)
    if missed:
        raise SystemExit(1)


def _commands(folder: Path) -> list[_Command]:
    big, small, study = (str(folder / name) for name in ("big", "small", "study"))
    out = str(folder.parent / "analysis")
    status, collect = ("-m", "experiments.status"), ("-m", "experiments.collect")
    isoflop = ("-m", "analysis", "isoflop", big, "--out", out)
    report = ("-m", "analysis", "report", study, "--out", out)
    return [
        _Command(name="status", words=(*status, big), limit=2),
        _Command(name="status --json", words=(*status, "--json", big), limit=2),
        _Command(name="status", words=(*status, small), limit=1, n_points=_SMALL),
        _Command(name="collect", words=(*collect, big), limit=10, repeats=1),
        _Command(name="analysis isoflop", words=isoflop, limit=10, repeats=1),
        _Command(name="analysis report", words=report, limit=15, repeats=1, n_points=_STUDY),
    ]


def _measure(commands: Sequence[_Command], n_points: int) -> list[str]:
    """Prints the table; returns the names of the commands that failed or exceeded their limit."""
    rows = [("command", "points", "seconds", "CPU seconds", "limit", "")]
    missed = []
    for command in commands:
        print(f"{command.name} ...", file=sys.stderr, flush=True)
        runs = [_timed(command.words) for _ in range(command.repeats)]
        wall, cpu = (median(values) for values in zip(*[run[:2] for run in runs]))
        error = runs[-1][2]
        verdict = f"failed: {error}" if error else "missed" if wall > command.limit else "ok"
        if verdict != "ok":
            missed.append(command.name)
        points = str(min(command.n_points or n_points, n_points))
        rows.append(
            (command.name, points, f"{wall:.2f}", f"{cpu:.2f}", f"{command.limit:g}", verdict)
        )
    lines = aligned([row[:5] for row in rows])
    print("\n".join(f"{line}  {row[5]}".rstrip() for line, row in zip(lines, rows)))
    return missed


def _timed(words: Sequence[str]) -> tuple[float, float, str]:
    """Wall and CPU seconds of a command, and the last line of its error, if it failed."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=False, errors="replace"
    )
    wall, after = time.perf_counter() - start, os.times()
    cpu = after.children_user + after.children_system
    cpu -= before.children_user + before.children_system
    error = (done.stderr.strip() or "no message").splitlines()[-1] if done.returncode else ""
    return wall, cpu, error
