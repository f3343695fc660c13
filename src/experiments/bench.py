"""Measures one thing: `python -m experiments.bench MEASUREMENT`; --help lists all.

A measurement is a file of experiments.benchmarks and is found there. It has `arguments(parser)`
and `run(options)`, and the first line of its docstring is its help. Exit codes are those of
experiments.run.
"""

import sys
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from experiments.system.command import Parser, exit_codes, needs_train
from experiments.system.modules import find_modules

with needs_train():
    from experiments.benchmarks.core.arguments import read_overrides

FOLDER = Path(__file__).parent / "benchmarks"
_ABOUT = """\
Contenders take turns, round after round, in one process; medians are printed, and each round's
ratio to the baseline, of which the median. A repeat during which other processes used the cores is
made again. Every comparison is made twice: with the allocator as it is, and with torch's huge
pages, which alone make plain torch up to twice as fast. Rivals: pip install -e '.[bench]'.

  python -m experiments.bench layer --quick
  python -m experiments.bench layer --d 256 --n-experts 1048576 --with-optimizer --memory
  python -m experiments.bench layer --device cuda --table-dtype bf16
  python -m experiments.bench data size=1
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
        for found in find_modules(FOLDER):
            command = commands.add_parser(
                found.name, help=found.about, formatter_class=RawDescriptionHelpFormatter
            )
            if found.name in given[:1]:  # Hydra, Lightning, transformers: only where needed
                name = f"experiments.benchmarks.{found.name}"
                measurement = cast(_Measurement, import_module(name))
                command.description = import_module(name).__doc__
                measurement.arguments(command)
        options, rest = parser.parse_known_args(given)
        options.words = given
        if hasattr(options, "overrides"):
            options.overrides = read_overrides(rest)
        elif rest:
            parser.error(f"unrecognized arguments: {' '.join(rest)}")
        measurement.run(options)


if __name__ == "__main__":
    main()
