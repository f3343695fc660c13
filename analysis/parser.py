"""The command line of `python -m analysis`: every file of commands/, and the options of all."""

import argparse
import importlib
import pkgutil
from typing import Any

from analysis import commands
from analysis.command import Command
from analysis.options import Parser, named_path
from analysis.table.budgets import TOLERANCE
from experiments.system.version import ShowVersion


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """The parser of all commands; the one that was typed is `chosen`."""
    parser = Parser(prog="python -m analysis", description=description)
    parser.add_argument("--version", action=ShowVersion)
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in find_commands().items():
        text = command.help
        sub = subparsers.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        sub.set_defaults(chosen=command)
        _add_shared(sub)
        command.options(sub)
    return parser


def find_commands() -> dict[str, Command[Any]]:
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {name: importlib.import_module(f"{commands.__name__}.{name}").COMMAND for name in names}


def _add_shared(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "path",
        type=named_path,
        help="a sweep's folder, a CSV or Parquet file, or an export of W&B",
    )
    sub.add_argument("--json", action="store_true", help="print the result as JSON instead")
    sub.add_argument(
        "--out",
        type=named_path,
        metavar="DIR",
        help="where files go (default: the sweep's folder)",
    )
    sub.add_argument(
        "--column",
        action="append",
        default=[],
        metavar="OURS=THEIRS",
        help="a foreign table's name for one of our columns, e.g. n_params=params; repeatable",
    )
    sub.add_argument(
        "--unit",
        action="append",
        default=[],
        metavar="OURS=UNIT",
        help="what a column's numbers are in: budget=GFLOP, n_tokens=B, loss=bit/byte, or a "
        "factor; repeatable",
    )
    sub.add_argument(
        "--series",
        metavar="COLUMN[,COLUMN]",
        help="whose values name a curve (default: the model and what varies in its layer); "
        "none: all runs are one",
    )
    sub.add_argument(
        "--separator",
        metavar="MARK",
        help="of a CSV: comma, semicolon, tab, pipe or a mark (default: as its lines show)",
    )
    sub.add_argument(
        "--budgets",
        metavar="FLOPS[,FLOPS]",
        help="the budgets that runs belong to, each to the nearest within the tolerance, e.g. "
        "6e18,1e19 (default: values near one another are one)",
    )
    sub.add_argument(
        "--budget-tolerance",
        type=float,
        metavar="SHARE",
        help="how far a run's own FLOPs may be from its budget, as a share of it; 0 keeps all "
        f"values apart (default: {TOLERANCE}; 0 of a sweep's folder, where they are planned)",
    )
    sub.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE[,VALUE]",
        help="only the runs that have it, e.g. query_norm=batch; repeatable",
    )
    sub.add_argument(
        "--flops",
        choices=["6nd"],
        help="take C = 6ND where a table has only two of them; wrong where attention or the "
        "vocabulary dominates",
    )
