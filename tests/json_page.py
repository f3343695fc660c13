"""docs/json.md, read: each schema's keys as a tree, against which real output is held."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "json.md"
NAME = "NAME"  # in a path: any key
_ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \|")
_HEADING = re.compile(r"##+ (\S+)")
_PART = re.compile(r"\[\]|[^.\[\]]+")
_LATER = ", not always"
_KINDS = {"string": str, "number": (int, float), "boolean": bool, "null": type(None)}


@dataclass
class Node:
    """A key. kinds: what it may be, of _KINDS, "any" or another heading of the page."""

    kinds: tuple[str, ...] = ()
    always: bool = True
    children: "dict[str, Node]" = field(default_factory=dict)

    def needed(self) -> bool:
        """Whether each output has it: at least one of its rows does not say "not always"."""
        if self.kinds:
            return self.always
        return any(child.needed() for child in self.children.values())

    def paths(self, before: str = "") -> Iterator[str]:
        for name, child in self.children.items():
            yield from child.paths(before + (name if name == "[]" else f".{name}"))
        if self.kinds:
            yield before.lstrip(".")


def read_page(text: str) -> dict[str, Node]:
    """Heading -> tree of the rows below it."""
    found: dict[str, Node] = {}
    here = Node()
    for line in text.splitlines():
        if heading := _HEADING.match(line):
            here = found[heading[1]] = Node()
        elif row := _ROW.match(line):
            node = here
            for part in _PART.findall(row[1]):
                node = node.children.setdefault(part, Node())
            assert not node.kinds, f"{row[1]} has two rows"
            kinds = row[2].strip()
            node.always = not kinds.endswith(_LATER)
            node.kinds = tuple(
                re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", kind)
                for kind in kinds.removesuffix(_LATER).split(" or ")
            )
    return {name: node for name, node in found.items() if node.children}


def schemas() -> dict[str, Node]:
    return read_page(PAGE.read_text(encoding="utf-8"))


def check(values: Any, known: dict[str, Node]) -> set[str]:
    """Paths of the page that the values have, of their schema. AssertionError for a key that the
    page lacks, one that it has and the values lack, and a value of another kind.
    """
    values = dict(values)
    name = values.pop("schema")
    assert name in known, f"docs/json.md has no {name}"
    seen: set[str] = set()
    _walk(values, known[name], "", known, seen)
    return seen


def _walk(value: Any, node: Node, path: str, known: dict[str, Node], seen: set[str]) -> None:
    if node.kinds:
        seen.add(path.lstrip("."))
    if "any" in node.kinds or (value is None and {"null", "number"} & {*node.kinds}):
        return  # a number that is not known is null
    others = [kind for kind in node.kinds if kind in known]
    if isinstance(value, dict) and others:
        (other,) = others
        return _walk(value, known[other], "", known, set())
    if isinstance(value, dict) and (node.children or not node.kinds):
        every = node.children.get(NAME)
        for key, child in node.children.items():
            if key not in value and key != NAME:
                assert not child.needed(), f"{path}.{key} is in docs/json.md alone"
        for key, inner in value.items():
            child = node.children.get(key, every)
            assert child is not None, f"{path}.{key} is not in docs/json.md"
            name = key if key in node.children else NAME
            _walk(inner, child, f"{path}.{name}", known, seen)
    elif isinstance(value, list) and "[]" in node.children:
        for inner in value:
            _walk(inner, node.children["[]"], f"{path}[]", known, seen)
    else:
        fits = [kind for kind in node.kinds if kind in _KINDS and _is(value, kind)]
        assert fits, f"{path}={value!r} is not {' or '.join(node.kinds) or 'what the page says'}"


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and isinstance(value, bool) == (kind == "boolean")
