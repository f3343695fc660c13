"""How fast the expert layers are: `python -m experiments.bench layer|step|optimizer|retrieval`;
how long `status` of a big sweep takes, `python -m experiments.bench status`; and how few hidden
units of a trained layer a token needs, `python -m experiments.bench neurons`; what a token costs
beside a library of adapters, `python -m experiments.bench adapters`; whether a parametrization is
right at all widths, `python -m experiments.bench coordinates`.

Contenders take turns in one process, and every comparison is made twice: with the allocator as it
is, and with torch's huge pages, which alone make plain torch up to twice as fast. Exit codes are
those of experiments.run.
"""

import json
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from experiments.benchmarks import layer, machine, optimizer, retrieval, step
from experiments.benchmarks.arguments import (
    OTHERS,
    check_json,
    fill,
    parser,
    settings_of,
    shapes_of,
)
from experiments.benchmarks.shapes import Settings, Shape
from experiments.benchmarks.tables import Report
from experiments.cli import INTERRUPTED, exit_codes


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints tables on stdout, progress on stderr, and writes --json."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with exit_codes():
        try:
            _main(given)
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None


def _main(arguments: list[str]) -> None:
    if arguments and arguments[0] in OTHERS:  # Hydra, Lightning, transformers: only where needed
        module = import_module(f"experiments.benchmarks.{arguments[0]}")
        module.main(arguments[1:])
        return
    options = parser().parse_args(arguments)
    fill(options)
    settings, notes = settings_of(options)
    shapes = shapes_of(options)
    check_json(options.json)
    if options.what == "layer" and options.memory_of is not None:
        machine.prepare(settings, options.part or options.allocator, options.threads)
        chosen = _layer_options(options, arguments)
        print(json.dumps(layer.peak_bytes(shapes[0], settings, chosen, options.memory_of)))
        return
    parts = [options.part or options.allocator]
    if parts == ["both"]:
        parts = ["default", "thp"]
    if options.part is None and (len(parts) > 1 or machine.needs_own_process(parts[0])):
        results = [_in_own_process(part, arguments) for part in parts]
    else:
        machine.prepare(settings, parts[0], options.threads)
        print("\n".join([*machine.heading(settings, parts[0]), *notes, ""]), flush=True)
        report = Report()
        _measure(options, settings, shapes, arguments, report)
        results = [{**machine.describe(settings, parts[0]), "comparisons": report.sections}]
    if options.json is not None:
        everything = {"arguments": arguments, "parts": results}
        options.json.write_text(json.dumps(everything, indent=1) + "\n", encoding="utf-8")


def _in_own_process(part: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs the same command with one allocator in a new process; returns its measurements."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.json"
        own = [*arguments, "--part", part, "--json", str(path)]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.bench", *own],
            env=machine.environment_of(part),
            check=False,
        )
        if done.returncode:
            raise SystemExit(done.returncode)  # the process has printed why
        return json.loads(path.read_text(encoding="utf-8"))["parts"][0]


def _measure(
    options: Namespace,
    settings: Settings,
    shapes: Sequence[Shape],
    arguments: Sequence[str],
    report: Report,
) -> None:
    if options.what == "layer":
        layer.run(shapes, settings, _layer_options(options, arguments), report)
    elif options.what == "step":
        trunk = step.Trunk(
            n_layers=options.layers,
            vocab_size=options.vocab,
            seq_len=options.seq_len,
            compiled=options.compile,
        )
        step.run(shapes, trunk, settings, report)
    elif options.what == "optimizer":
        optimizer.run(shapes, settings, report)
    else:
        retrieval.run(shapes, settings, report)


def _layer_options(options: Namespace, arguments: Sequence[str]) -> layer.Options:
    return layer.Options(
        with_optimizer=options.with_optimizer,
        memory=options.memory,
        arguments=tuple(arguments),
    )


if __name__ == "__main__":
    main()
