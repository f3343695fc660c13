"""Dataclasses read from plain mappings, strictly: every key known, every value as declared.

Errors name what a user types: the whole dotted path.
"""

import contextlib
import dataclasses
import difflib
import functools
import importlib
import types
import typing
from collections.abc import Collection, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from experiments.config.constraints import checked, read_hints, shown
from experiments.config.fields import ADDED, is_unchanged
from experiments.config.hydra_hints import choices, choices_with
from experiments.config.once import once
from experiments.config.paths import conf_dir
from experiments.config.trust import check_trusted


def build(node: Any, where: str, needs: Sequence[str] = ()) -> Any:
    """Dataclass that a config node names by its `_target_`, with the node's other keys.

    needs: the methods that make it what is wanted in this place. Raises ValueError for anything
    else that can be imported, without calling it.
    """
    if node is None:
        raise ValueError(f"{where} is not set; {_choices(where)}")
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise ValueError(f"{where}={shown(node)} needs a _target_ naming the class to build")
    fields = {k: v for k, v in node.items() if k != "_target_"}
    cls = target_class(node, where)
    given = f"{where}._target_={node['_target_']}"
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        raise ValueError(f"{given} is not a dataclass; {_choices(where)}")
    lacks = [name for name in needs if not hasattr(cls, name)]
    if lacks:
        raise ValueError(f"{given} has no method {' or '.join(lacks)}; {_choices(where)}")
    return once((cls, where), fields, lambda: read(cls, fields, where))


def check_chosen(node: Mapping[str, Any], group: str, *keys: str) -> None:
    """Raises ValueError for keys of a group of conf/ whose choice is none: one of these lacks."""
    if not node.keys() >= {*keys}:
        name, value = next(iter(node.items()), (keys[0], None))
        raise ValueError(
            f"{group}.{name}={shown(value)} with {group}=none, which has no such key; "
            f"{choices(group)}"
        )


def target_class(node: Mapping[str, Any], where: str) -> Any:
    """Class that a config node's `_target_` names.

    Raises ValueError, before anything is imported, for a name that the user has not given
    (trust.py), and if the import fails.
    """
    target = check_trusted(node["_target_"], where)
    given = f"{where}._target_={shown(target)}"
    module, _, name = target.rpartition(".")
    try:
        return getattr(importlib.import_module(module), name)
    except Exception as error:  # importing runs the module
        raise ValueError(
            f"{given} can't be imported ({type(error).__name__}: {error}); name a class as "
            "package.module.Class, in a package that Python finds"
        ) from error


def read(cls: type, values: Mapping[str, Any], where: str = "") -> Any:
    """An instance of the dataclass `cls`, with every key known and every value as declared."""
    hints = read_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    prefix = f"{where}." if where else ""
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(str(key), fields, n=1)
            others = choices_with(where, str(key))
            hint = f"{others} has it" if others else f"known: {', '.join(fields)}"
            hint = f"did you mean {prefix}{close[0]}?" if close else hint
            raise ValueError(f"{prefix}{key}: unknown key; {hint}")
    for name, field in fields.items():
        value = values.get(name, "???")
        if field.default is dataclasses.MISSING and isinstance(value, str) and value == "???":
            raise ValueError(f"{prefix}{name} is not set; {_choices(prefix + name)}")
    # in the order of declaration: ladder.lr before optim.lr, which it becomes
    plain = {
        name: read_value(values[name], hints[name], prefix + name)
        for name in fields
        if name in values
    }
    with _named(prefix):
        return cls(**plain)


def read_value(value: Any, hint: Any, where: str) -> Any:
    """Value as its hint has it: groups, floats, tuples, and of a Protocol the dataclass that a
    node names. Raises ValueError for another.
    """
    if typing.Protocol in getattr(hint, "__bases__", ()) and isinstance(value, Mapping):
        return build(value, where, [name for name in vars(hint) if not name.startswith("_")])
    group = group_class(hint)
    if group is not None and group is not hint:  # or null
        return None if value is None else read_value(value, group, where)
    if not (isinstance(hint, type) and dataclasses.is_dataclass(hint)):
        return checked(value, hint, where)
    if value is None:
        raise ValueError(f"{where} is not set; {_choices(where)}")
    if isinstance(value, hint):  # it is built already, of a node with a `_target_`
        return value
    if not isinstance(value, Mapping):
        raise ValueError(f"{where}={shown(value)} must be a group of keys")
    return once((hint, where), value, lambda: read(hint, value, where))


def group_class(hint: Any) -> type | None:
    """Dataclass that a hint asks for, be it that or null; None if it asks for none."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    found = [o for o in options if isinstance(o, type) and dataclasses.is_dataclass(o)]
    return found[0] if found else None


@contextlib.contextmanager
def _named(prefix: str) -> Iterator[None]:
    """Puts the path before the name of the field that a class's own check begins with."""
    try:
        yield
    except (ValueError, RuntimeError) as error:
        kind = ValueError if isinstance(error, ValueError) else RuntimeError
        raise kind(f"{prefix}{error}") from None


def _choices(name: str) -> str:
    """Remedy for a missing name: the choices of a group of conf/, else a value."""
    group = name.partition(".")[2] if name.startswith("data.") else name
    group = "data" if group == "corpus" else group
    if not (conf_dir() / group).is_dir():
        return f"give {name}=..."
    return choices(group)


def without_unchanged(node: Any, hint: Any) -> Any:
    """Node without fields that are younger than records and stand at their default.

    hint: the type that the node's parent declares for it; a node with a `_target_` says itself.
    """
    if isinstance(node, list):
        return [without_unchanged(item, None) for item in node]
    if not isinstance(node, Mapping):
        return node
    cls = group_class(hint)
    if "_target_" in node:
        cls = target_class(node, "_target_")
    if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
        return {key: without_unchanged(item, None) for key, item in node.items()}
    hints, fields = _plain_hints(cls), _added_fields(cls)
    return {
        key: without_unchanged(item, hints.get(key))
        for key, item in node.items()
        if key not in fields or not is_unchanged(fields[key], read_value(item, hints[key], key))
    }


@functools.cache
def _plain_hints(cls: type) -> Mapping[str, Any]:
    return MappingProxyType(typing.get_type_hints(cls))


@functools.cache
def _added_fields(cls: type) -> "Mapping[str, dataclasses.Field[Any]]":
    found = {field.name: field for field in dataclasses.fields(cls) if ADDED in field.metadata}
    return MappingProxyType(found)


def without(raw: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    """A config without the keys of these dotted names."""
    kept: dict[str, Any] = {}
    for key, value in raw.items():
        below = [n.removeprefix(f"{key}.") for n in names if n.startswith(f"{key}.")]
        if key not in names:
            kept[key] = without(value, below) if below and isinstance(value, Mapping) else value
    return kept
