"""Parts of a run, a file each (experiments.points.point.RunPart), found by themselves."""

import functools
import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any

from experiments.config.schema import RunConfig
from experiments.points.point import RunPart


@functools.cache
def kinds() -> tuple[type[RunPart], ...]:
    """Classes of this folder's files, in the order in which they act."""
    names = (f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__))
    found = [
        value
        for name in names
        for value in vars(importlib.import_module(name)).values()
        if isinstance(value, type) and issubclass(value, RunPart) and value.__module__ == name
    ]
    return tuple(sorted(found, key=lambda kind: (kind.order, kind.__name__)))


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
