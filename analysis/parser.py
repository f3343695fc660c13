"""Command line of `python -m analysis`: every file of commands/, and the options of all."""

import argparse
import ast
import importlib
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from analysis import commands
from experiments.system.version import ShowVersion

if TYPE_CHECKING:
    from analysis.command import Described

_PATH = "a sweep's folder, a CSV or Parquet file, or an export of W&B"


class Parser(argparse.ArgumentParser):
    """argparse, whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {' '.join(message.split())}; see {self.prog} --help\n")


class _OfCommand(Parser):
    """Parser of a command, whose file is imported when it was typed: no other's is."""

    def parse_known_args(  # type: ignore[override]  # it has overloads
        self, args: Sequence[str] | None = None, namespace: Any = None
    ) -> Any:
        if self.get_default("chosen") is None:
            self._declare(find_command(self.prog.rpartition(" ")[2]))
        return super().parse_known_args(args, namespace)

    def _declare(self, command: "Described") -> None:
        from analysis.options import SHARED, declare, named_path

        self.set_defaults(chosen=command)
        self.description = command.description or self.description
        self.add_argument("path", type=named_path, help=_PATH)
        declare(self, SHARED + command.options)
        for titled, options in command.groups.items():
            title, _, text = titled.partition(": ")
            declare(self.add_argument_group(title, text or None), options)
        if command.groups:
            self.usage = "%(prog)s [option ...] path"


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """Parser of all commands; the one that was typed is `chosen`."""
    parser = Parser(prog="python -m analysis", description=description)
    parser.add_argument("--version", action=ShowVersion)
    subparsers = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_OfCommand
    )
    for name, line in list_commands().items():
        subparsers.add_parser(name, help=line[0].lower() + line[1:-1], description=line)
    return parser


def list_commands() -> dict[str, str]:
    """By name, the first line of each file's docstring. None is imported."""
    names = sorted(module.name for module in pkgutil.iter_modules(commands.__path__))
    (folder,) = map(Path, commands.__path__)
    trees = {name: ast.parse((folder / f"{name}.py").read_bytes()) for name in names}
    docs = {name: ast.get_docstring(tree) or "" for name, tree in trees.items()}
    return {name: text.partition("\n")[0] for name, text in docs.items()}


def find_command(name: str) -> "Described":
    command: Described = importlib.import_module(f"{commands.__name__}.{name}").COMMAND
    return command
