"""A group of conf/ whose class its `_target_` names, and that another key chose in earlier runs."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from experiments.config.constraints import shown
from experiments.config.fields import is_unchanged
from experiments.config.hydra_hints import choices
from experiments.config.reading import target_class


@dataclass(frozen=True, kw_only=True)
class Former:
    """Classes that a group had, by the value of its key; the first is that of no value.

    Each took the settings of all of them. So records and ids have them side by side, without a
    `_target_`, and ids stay as they are.
    """

    key: str
    classes: Mapping[str, str]

    def today(self, node: Any, where: str) -> Any:
        """A group's node as it is written today. Raises ValueError for a key that has no effect."""
        if not isinstance(node, Mapping):
            return node
        given = f"{where}.{self.key}={shown(node.get(self.key))}"
        if "_target_" in node:
            if self.key not in node:
                return node
            name = node[self.key]
            raise ValueError(f"{given} is now a choice of conf/{where}; write {where}={name}")
        name = node.get(self.key, next(iter(self.classes)))
        if name not in self.classes:
            raise ValueError(f"{given} is not one of {', '.join(self.classes)}; {choices(where)}")
        found = {"_target_": self.classes[name]}
        own = {field.name for field in dataclasses.fields(target_class(found, where))}
        others = self._fields.keys() - own | {self.key}
        return {**found, **{k: v for k, v in node.items() if k not in others}}

    def before(self, node: Mapping[str, Any]) -> Mapping[str, Any]:
        """A node as ids have it: of these classes as it was written before, without what is
        younger than runs on disk and unchanged.
        """
        names = {target: name for name, target in self.classes.items()}
        name = names.get(node.get("_target_", ""), node.get(self.key))
        if "_target_" in node and node["_target_"] not in names:
            return node
        kept = {k: v for k, v in node.items() if k not in ("_target_", self.key)}
        if name not in (None, next(iter(self.classes))):
            kept[self.key] = name
        fields = self._fields
        return {k: v for k, v in kept.items() if k not in fields or not is_unchanged(fields[k], v)}

    @functools.cached_property
    def _fields(self) -> dict[str, Any]:
        """Fields of all these classes."""
        found = (target_class({"_target_": target}, "_target_") for target in self.classes.values())
        return {field.name: field for cls in found for field in dataclasses.fields(cls)}
