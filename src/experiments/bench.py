"""Measures one thing: `python -m experiments.bench MEASUREMENT`; --help lists all.

A measurement is a file of experiments.benchmarks and is found there; `gpu`, the check of a card,
has a room of its own. It has `arguments(parser)` and `run(options)`, and the first line of its
docstring is its help. Exit codes are those of experiments.run.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from experiments.system.command import Parser, exit_codes
from experiments.system.modules import find_modules, read_module

FOLDER = Path(__file__).parent / "benchmarks"
CARD = Path(__file__).parent / "gpu" / "command.py"
_ABOUT = """\
Contenders take turns, round after round, in one process; medians are printed, and each round's
ratio to the baseline, of which the median. A repeat during which other processes used the cores is
made again. Every comparison is made twice: with the allocator as it is, and with torch's huge
pages, which alone make plain torch up to twice as fast. Rivals: pip install -e '.[bench]'.

  python -m experiments.bench layer --quick
  python -m experiments.bench layer --d 256 --n-experts 1048576 --with-optimizer --memory
  python -m experiments.bench layer --device cuda --table-dtype bf16
  python -m experiments.bench data size=1
  python -m experiments.bench gpu
  python -m experiments.bench MEASUREMENT --help
"""


class _Measurement(Protocol):
    """arguments: declares what it takes beside --help. run: measures, prints tables, and writes the
    files that the options name.
    """

    def arguments(self, parser: ArgumentParser) -> None: ...
    def run(self, options: Namespace) -> None: ...


def main(arguments: Sequence[str] | None = None) -> None:
    """Prints tables on stdout, and progress on stderr."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    with exit_codes():
        parser = Parser(
            prog="python -m experiments.bench",
            description=_ABOUT,
            formatter_class=RawDescriptionHelpFormatter,
        )
        commands = parser.add_subparsers(metavar="MEASUREMENT", required=True)
        known = {found.name: (found, "benchmarks." + found.name) for found in find_modules(FOLDER)}
        known["gpu"] = read_module(CARD), "gpu.command"
        for name, (found, place) in sorted(known.items()):
            command = commands.add_parser(
                name, help=found.about, formatter_class=RawDescriptionHelpFormatter
            )
            if name in given[:1]:  # Hydra, Lightning, transformers: only where needed
                module = import_module(f"experiments.{place}")
                measurement = cast(_Measurement, module)
                command.description = module.__doc__
                measurement.arguments(command)
        options, rest = parser.parse_known_args(given)
        options.words = given
        if hasattr(options, "overrides"):
            from experiments.benchmarks.core.arguments import read_overrides

            options.overrides = read_overrides(rest)
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        measurement.run(options)


if __name__ == "__main__":
    main()
