"""A composed config that points are made of, each by the values that it sets."""

import copy
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from hydra.core.override_parser.types import Override
from omegaconf import DictConfig, OmegaConf

from experiments.config.overriding import apply

_LINK = re.compile(r"\$\{([A-Za-z_]\w*(?:\.\w+)*)\}")  # the value of another key, alone
_VARIABLE = re.compile(r"\$\{oc\.env:[^${}]*\}")  # of the environment, which stays
_MISSING = "???"
_SINGLE = (type(None), bool, int, float, str)
_DEPTH = 10  # links to links; OmegaConf says what is wrong with a circle of them

Path = tuple[Any, ...]


class _NeedsOmegaConfError(Exception):
    """A point's values are not single ones at keys that are there."""


class Template:
    """A config of Hydra's without its hydra node. Points are filled in as plain values, without
    copying its nodes, as long as they set single values at keys that are there, and all its
    interpolations are keys or environment variables. For others OmegaConf is asked.
    """

    def __init__(self, config: DictConfig) -> None:
        self._config = config
        self._plain = OmegaConf.to_container(config)
        self._links: list[tuple[Path, Sequence[str]]] | None = []  # None: OmegaConf's alone
        for path, text in _interpolations(self._plain):
            if found := _LINK.fullmatch(text):
                self._links.append((path, found[1].split(".")))
            elif _VARIABLE.fullmatch(text):
                _holder(self._plain, path)[path[-1]] = _select(config, path)
            else:
                self._links = None
                break

    def fill(self, overrides: Sequence[Override]) -> dict[str, Any]:
        """Resolved values of the point with these overrides, of values and not of groups. They are
        the caller's own. Raises as Hydra and OmegaConf do.
        """
        try:
            return self._filled(overrides)
        except _NeedsOmegaConfError:
            made = copy.deepcopy(self._config)
            apply(overrides, made)
            values = OmegaConf.to_container(made, resolve=True)
            assert isinstance(values, dict)
            return {str(key): value for key, value in values.items()}

    def _filled(self, overrides: Iterable[Override]) -> dict[str, Any]:
        if self._links is None:
            raise _NeedsOmegaConfError
        made: dict[str, Any] = _copied(self._plain)
        given: set[Path] = set()
        for override in overrides:
            path, value = override.key_or_group.split("."), override.value()
            if not _is_single(override, value):
                raise _NeedsOmegaConfError
            holder = _holder(made, path)
            if isinstance(holder[path[-1]], (dict, list)):
                raise _NeedsOmegaConfError
            holder[path[-1]] = value
            given.add((*path,))
        for link, target in self._links:
            if link not in given:
                _holder(made, link)[link[-1]] = _linked(made, target)
        return made


def _is_single(override: Override, value: Any) -> bool:
    """Whether an override sets a key that is there to one value, which is what it says."""
    plain = not (
        override.is_delete()
        or override.is_add()
        or override.is_force_add()
        or override.package is not None
    )
    is_text = isinstance(value, str)
    return (
        plain and type(value) in _SINGLE and not (is_text and ("$" in value or value == _MISSING))
    )


def _interpolations(node: Any, path: Path = ()) -> Iterator[tuple[Path, str]]:
    items = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in list(items):
        if isinstance(value, (dict, list)):
            yield from _interpolations(value, (*path, key))
        elif isinstance(value, str) and "${" in value:
            yield (*path, key), value


def _holder(node: Any, path: Sequence[Any]) -> Any:
    """Node that has the last key of a path, as a dict or list."""
    for key in path[:-1]:
        node = _below(node, key)
    _below(node, path[-1])
    return node


def _below(node: Any, key: Any) -> Any:
    there = key in node if isinstance(node, dict) else isinstance(node, list) and type(key) is int
    if not there:
        raise _NeedsOmegaConfError
    return node[key]


def _select(config: DictConfig, path: Path) -> Any:
    node: Any = config
    for key in path:
        node = node[key]
    return node


def _linked(made: Any, target: Sequence[str], depth: int = 0) -> Any:
    """Single value that a link leads to."""
    value = _holder(made, target)[target[-1]]
    if isinstance(value, str) and (found := _LINK.fullmatch(value)) and depth < _DEPTH:
        return _linked(made, found[1].split("."), depth + 1)
    if isinstance(value, (dict, list)) or (isinstance(value, str) and _is_open(value)):
        raise _NeedsOmegaConfError
    return value


def _is_open(value: str) -> bool:
    return "${" in value or value == _MISSING


def _copied(node: Any) -> Any:
    if isinstance(node, dict):
        return {key: _copied(value) for key, value in node.items()}
    return [_copied(value) for value in node] if isinstance(node, list) else node
