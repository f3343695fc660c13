"""Command line of `python -m analysis`: every file of commands/, and the options of all."""

import argparse
import importlib
import pkgutil

from analysis import commands
from analysis.command import Described
from analysis.options import SHARED, Parser, declare, named_path
from experiments.system.version import ShowVersion

_PATH = "a sweep's folder, a CSV or Parquet file, or an export of W&B"


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
        declare(sub, SHARED + command.options)
        for titled, options in command.groups.items():
            title, _, text = titled.partition(": ")
            declare(sub.add_argument_group(title, text or None), options)
        if command.groups:
            sub.usage = "%(prog)s [option ...] path"
    return parser


def find_commands() -> dict[str, Described]:
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    return {name: importlib.import_module(f"{commands.__name__}.{name}").COMMAND for name in names}
