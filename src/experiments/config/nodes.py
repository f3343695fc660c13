"""Config nodes, as yaml has them, of frozen configs."""

import dataclasses
from typing import Any


def make_node(config: Any) -> dict[str, Any]:
    """Config node, with its `_target_`, that a config of a layer or positions is built from."""
    node: dict[str, Any] = {"_target_": find_target(type(config))}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        node[field.name] = make_node(value) if dataclasses.is_dataclass(value) else value
    return node


def find_target(cls: type) -> str:
    """Name that a config node calls a class by, under `_target_`."""
    return f"{cls.__module__}.{cls.__qualname__}"
