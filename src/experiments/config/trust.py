"""Which classes may be imported by their names: this project's, and those that the user has named.

Importing a module runs it, and a record, a manifest or a config.yaml may be somebody else's. So the
name under a `_target_` is checked before anything is imported. A user names a class on the command
line, in a file of conf/, or in the variable EXPERIMENTS_TRUST. Standard library only.
"""

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.config.paths import conf_dir

VARIABLE = "EXPERIMENTS_TRUST"  # packages, modules and classes, with commas between them
_OWN = "experiments"
_NAME = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")
_IN_CONF = re.compile(r"^[^#\n]*?\b_target_['\"]?\s*:\s*['\"]?([\w.]+)", re.MULTILINE)


def trust_composed(raw: Mapping[Any, Any]) -> None:
    """Trusts every class that a config names which Hydra has composed of conf/ and a command line.

    For this process, and for those that it starts: the variable carries the names to them.
    """
    new = {name for name in _targets(raw) if not is_trusted(name)}
    if new:
        os.environ[VARIABLE] = ",".join([*_given(), *sorted(new)])


def check_trusted(name: Any, where: str) -> str:
    """Returns name. Raises ValueError for one that nobody here has named, and for no name."""
    given = f"{where}._target_={shown(name)}"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{given} is no name of a class; write package.module.Class")
    if not is_trusted(name):
        raise ValueError(
            f"{given} is in a file, and is neither a class of this project nor named in "
            f"{conf_dir()}: importing it would run code that nobody here has asked for. If you "
            f"trust it, set {VARIABLE}={name} (docs/trust.md)"
        )
    return name


def is_trusted(name: str) -> bool:
    """Whether it is of this project or of what the variable names, or is named in conf/."""
    beginnings = (_OWN, *_given())
    return name.startswith(tuple(f"{b}." for b in beginnings)) or (
        name in beginnings or name in _named_in(conf_dir())
    )


def _given() -> list[str]:
    return [name for name in re.split(r"[,\s]+", os.environ.get(VARIABLE, "")) if name]


@functools.cache
def _named_in(folder: Path) -> frozenset[str]:
    """Classes that the yaml files of a folder name, comments left out."""
    texts = (path.read_text(encoding="utf-8") for path in folder.rglob("*.yaml"))
    return frozenset(name for text in texts for name in _IN_CONF.findall(text))


def _targets(node: Any) -> Iterator[str]:
    """Every `_target_` in a config, wherever it is."""
    if isinstance(node, Mapping):
        if isinstance(node.get("_target_"), str):
            yield node["_target_"]
        node = list(node.values())
    if isinstance(node, (list, tuple)):
        for item in node:
            yield from _targets(item)
