"""Modules of a folder, read without being imported: a file that is put there is found.

Standard library only.
"""

import ast
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Module:
    """about: the first line of its docstring. constants: its numbers and texts, by their names."""

    name: str
    about: str
    constants: Mapping[str, Any]


def find_modules(folder: Path) -> list[Module]:
    """In the order of their names; none that begins with an underscore."""
    return [read_module(path) for path in sorted(folder.glob("[!_]*.py"))]


def read_module(path: Path) -> Module:
    """Read the module of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    constants: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            constants |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
    return Module(name=path.stem, about=first.removesuffix("."), constants=constants)
