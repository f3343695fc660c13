"""Release, as `--version` of every command prints it."""

import argparse
import importlib.metadata
import platform
from collections.abc import Sequence
from typing import Any

PACKAGE = "expert-isoflops"
_SHOWN = ("torch", "lightning", "hydra-core")  # what a report of a fault needs to name


def install(extra: str) -> str:
    """Command that installs one of pyproject's extras: of a clone, as PyPI has no release."""
    return f"pip install -e '.[{extra}]' in a clone of the repository"


def own_version() -> str:
    """Release of this package, e.g. 0.1.0."""
    return _version(PACKAGE)


def version_line() -> str:
    """'expert-isoflops 0.1.0 (Python 3.11.9, torch 2.13.0, lightning 2.6.1, hydra-core 1.3.8)'."""
    beside = [f"{name} {_version(name)}" for name in _SHOWN]
    return (
        f"{PACKAGE} {_version(PACKAGE)} (Python {platform.python_version()}, {', '.join(beside)})"
    )


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class ShowVersion(argparse.Action):
    """argparse's own action wants the text before it is asked for, which costs every command."""

    def __init__(self, option_strings: Sequence[str], dest: str, **_: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, help="print the versions, and end")

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        print(version_line())
        parser.exit()
