"""A comparison as a command: an allocator a process, tables as they come, everything as JSON."""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.benchmarks.core import machine
from experiments.benchmarks.core.arguments import read_comparison, save_json
from experiments.benchmarks.core.report import Section, printed
from experiments.benchmarks.core.shapes import Settings, Shape

Sections = Callable[[Sequence[Shape], Settings], Iterable[Section]]


def run_comparison(options: Namespace, sections: Sections) -> None:
    """Prints the sections of each allocator, and writes --json."""
    shapes, settings, notes = read_comparison(options)
    parts = [options.part or options.allocator]
    if parts == ["both"]:
        parts = ["default", "thp"]
    if options.part is None and (len(parts) > 1 or machine.needs_own_process(parts[0])):
        results = [_in_own_process(part, options.words) for part in parts]
    else:
        machine.prepare(settings, parts[0], options.threads)
        print("\n".join([*machine.heading(settings, parts[0]), *notes, ""]), flush=True)
        found = [section.as_json() for section in printed(sections(shapes, settings))]
        results = [{**machine.describe(settings, parts[0]), "comparisons": found}]
    save_json(options, {"arguments": options.words, "parts": results})


def _in_own_process(part: str, words: Sequence[str]) -> dict[str, Any]:
    """Runs the same command with one allocator in a new process; returns its measurements."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.json"
        own = [*words, "--part", part, "--json", str(path)]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.bench", *own],
            env=machine.allocator_environment(part),
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.returncode)  # the process has printed why
        return json.loads(path.read_text(encoding="utf-8"))["parts"][0]
