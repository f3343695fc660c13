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
    paths = sorted(folder.glob("[!_]*.py"))
    return [_read(path.stem, ast.parse(path.read_text(encoding="utf-8"))) for path in paths]


def _read(name: str, tree: ast.Module) -> Module:
    first = (ast.get_docstring(tree) or "").partition("\n")[0]
    constants: dict[str, Any] = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
            constants |= {t.id: node.value.value for t in node.targets if isinstance(t, ast.Name)}
    return Module(name=name, about=first.removesuffix("."), constants=constants)
