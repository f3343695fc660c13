"""Configs whose run ids are known without reading them."""

import glob
import os
from collections.abc import Iterator, Mapping
from typing import Any

import experiments
from experiments.config.schedules import TRUNK

_OWN = f"{experiments.__name__}."


def is_plain(raw: Mapping[str, Any]) -> bool:
    """Whether the run's id depends on the config and this code alone, and on no other run."""
    optim = raw.get("optim") or {}
    if raw.get("init") is not None or raw.get("parts") is not None:
        return False
    if optim.get("branch_from") is not None or optim.get("schedule") == TRUNK:
        return False
    of_run = {key: value for key, value in raw.items() if key not in ("sweep", "paths")}
    return all(
        value.startswith(_OWN) if key == "_target_" else not _may_be_file(value)
        for key, value in _texts(of_run)
    )


def _may_be_file(text: str) -> bool:
    return "/" in text or glob.has_magic(text) or os.path.lexists(text)


def _texts(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Texts of a config, each beside its key."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _texts(value, str(name))
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _texts(value, key)
    elif isinstance(node, str):
        yield key, node
