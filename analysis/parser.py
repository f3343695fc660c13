"""Command line of `python -m analysis`: every file of commands/, and the options of all."""

import argparse
import importlib
import pkgutil
from typing import Any

from analysis import commands
from analysis.command import Command
from analysis.options import Parser, declare, named_path
from analysis.table.budgets import TOLERANCE
from experiments.system.version import ShowVersion

_PATH = "a sweep's folder, a CSV or Parquet file, or an export of W&B"
_SHARED = f"""
--json  print the result as JSON instead
--out DIR  where files go (default: the sweep's folder)
--column OURS=THEIRS...  a foreign table's name for one of our columns, e.g. n_params=params;
    repeatable
--unit OURS=UNIT...  what a column's numbers are in: budget=GFLOP, n_tokens=B, loss=bit/byte, or a
    factor; repeatable
--series COLUMN[,COLUMN]  whose values name a curve (default: the model and what varies in its
    layer); none: all runs are one
--separator MARK  of a CSV: comma, semicolon, tab, pipe or a mark (default: as its lines show)
--budgets FLOPS[,FLOPS]  the budgets that runs belong to, each to the nearest within the tolerance,
    e.g. 6e18,1e19 (default: values near one another are one)
--budget-tolerance SHARE  how far a run's own FLOPs may be from its budget, as a share of it; 0
    keeps all values apart (default: {TOLERANCE}; 0 of a sweep's folder, where they are planned)
--where COLUMN=VALUE[,VALUE]...  only the runs that have it, e.g. query_norm=batch; repeatable
--flops {{6nd}}  take C = 6ND where a table has only two of them; wrong where attention or the
    vocabulary dominates
"""


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of all commands; the one that was typed is `chosen`."""
    parser = Parser(prog="python -m analysis", description=description)
    parser.add_argument("--version", action=ShowVersion)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in find_commands().items():
        text = command.help
        described = command.description or f"{text[0].upper()}{text[1:]}."
        sub = subparsers.add_parser(name, help=text, description=described)
        sub.set_defaults(chosen=command)
        sub.add_argument("path", type=named_path, help=_PATH)
        declare(sub, _SHARED + command.options)
        for titled, options in command.groups.items():
            title, _, text = titled.partition(": ")
            declare(sub.add_argument_group(title, text or None), options)
        if command.groups:
            sub.usage = "%(prog)s [option ...] path"
    return parser


def find_commands() -> dict[str, Command[Any]]:
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {name: importlib.import_module(f"{commands.__name__}.{name}").COMMAND for name in names}
