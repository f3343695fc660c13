"""Parts of a run, a file each (experiments.points.point.RunPart), found by themselves: those of
this folder, and of a folder `run_parts` in any room.
"""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import experiments
from experiments.config.schema import RunConfig
from experiments.points.point import RunPart


@functools.cache
def kinds() -> tuple[type[RunPart], ...]:
    """Classes of these folders' files, in the order in which they act."""
    found = [
        value
        for name in _files()
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, RunPart) and value.__module__ == name
    ]
    return tuple(sorted(found, key=lambda kind: (kind.order, kind.__name__)))


def _files() -> Iterator[str]:
    """Dotted names of the files."""
    for module in pkgutil.iter_modules(__path__):
        yield f"{__name__}.{module.name}"
    for room in pkgutil.iter_modules(experiments.__path__):
        folder = Path(experiments.__path__[0], room.name, "run_parts")
        for module in pkgutil.iter_modules([str(folder)]):
            yield f"experiments.{room.name}.run_parts.{module.name}"


def completed(raw: Mapping[str, Any]) -> Mapping[str, Any]:
    """Config with nothing left open; the same one if there is nothing to fill in. Raises
    ValueError for what can't be found out, and for keys that say another thing.
    """
    for kind in kinds():
        raw = kind.complete(raw)
    return raw


def find_parts(config: RunConfig) -> tuple[RunPart, ...]:
    """Parts that a config asks for, in the order in which they act. Raises ValueError for one
    of `parts` that is no RunPart, or whose kind the run has already.
    """
    found = {kind.__name__: kind.of(config) for kind in kinds()}
    parts = {name: part for name, part in found.items() if part is not None}
    for name, part in (config.parts or {}).items():
        if not isinstance(part, RunPart):
            raise ValueError(
                f"parts.{name}._target_={type(part).__module__}.{type(part).__qualname__} is no "
                "RunPart; let the class have experiments.points.point.RunPart as its base"
            )
        twin = next((key for key, other in parts.items() if type(other) is type(part)), None)
        if twin is not None:
            raise ValueError(
                f"parts.{name} is {type(part).__name__}, which the run has already ({twin}): in "
                "checkpoints and records there is one place for it; leave one of them out"
            )
        parts[name] = part
    return tuple(sorted(parts.values(), key=lambda part: (part.order, type(part).__name__)))
