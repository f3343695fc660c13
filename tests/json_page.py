"""docs/json.md, read: each schema's keys as a tree, against which real output is held."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.conftest import REPOSITORY

PAGE = REPOSITORY / "docs" / "json.md"
NAME = "NAME"  # in a path: any key, or the part of one
# what an object of a schema inside of another may lack
WITHOUT = {"question", "table", "status", "warnings", "moves", "over_experts", "size_slopes"}
_ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \|")
_LINK = re.compile(r"\[([^]]+)\]\([^)]*\)")
_PART = re.compile(r"\[\]|[^.\[\]]+")
_LATER = ", not always"
_KINDS = {"string": str, "number": (int, float), "boolean": bool, "null": type(None)}


@dataclass
class Node:
    """A key. kinds: what it may be: of _KINDS, "any", or another heading of the page."""

    path: str = ""
    kinds: tuple[str, ...] = ()
    always: bool = True
    children: "dict[str, Node]" = field(default_factory=dict)

    def needed(self) -> bool:
        """Whether each output has it: its row, or one below it, does not say "not always"."""
        if self.kinds:
            return self.always
        return any(child.needed() for child in self.children.values())

    def rows(self) -> "Iterator[Node]":
        if self.kinds:
            yield self
        for child in self.children.values():
            yield from child.rows()

    def child(self, key: str) -> "Node | None":
        """The row of this key, else that of keys as this one."""
        patterns = [one for one in self.children if NAME in one]
        for name in (key, *sorted(patterns, key=len, reverse=True)):
            found = self.children.get(name)
            if found and re.fullmatch(re.escape(name).replace(NAME, ".+"), key, re.DOTALL):
                return found
        return None


def read_page(text: str) -> dict[str, Node]:
    """Heading, or each word of one -> the rows below it."""
    found: dict[str, Node] = {}
    here = Node()
    for line in text.splitlines():
        if line.startswith("## "):
            here = Node()
            found |= dict.fromkeys(line.split()[1:], here)
        elif row := _ROW.match(line):
            node = here
            for part in _PART.findall(row[1]):
                node = node.children.setdefault(part, Node())
            assert not node.kinds, f"{row[1]} has two rows"
            kinds = _LINK.sub(r"\1", row[2].strip())
            node.path, node.always = row[1], not kinds.endswith(_LATER)
            node.kinds = tuple(kinds.removesuffix(_LATER).split(" or "))
    return {name: node for name, node in found.items() if node.children}


def schemas() -> dict[str, Node]:
    return read_page(PAGE.read_text(encoding="utf-8"))


def check(values: dict[str, Any], known: dict[str, Node] | None = None) -> set[str]:
    """Rows of the values' schema that they show, or can't: those below what is empty in them.

    AssertionError for a key that the page lacks, one that the values lack, or one of another kind.
    """
    known = schemas() if known is None else known
    assert next(iter(values)) == "schema"
    assert values["schema"] in known, f"docs/json.md has no {values['schema']}"
    return _Walk(known, values["schema"]).seen({k: v for k, v in values.items() if k != "schema"})


@dataclass
class _Walk:
    known: dict[str, Node]
    name: str
    paths: set[str] = field(default_factory=set)

    def seen(self, values: Any, inside: bool = False) -> set[str]:
        self._walk(values, self.known[self.name], WITHOUT if inside else set())
        return self.paths

    def _walk(self, value: Any, node: Node, without: set[str]) -> None:
        if node.kinds:
            self.paths.add(node.path)
        if value is None or value in ([], {}):
            self.paths |= {row.path for row in node.rows()}
        if "any" in node.kinds or (value is None and {"null", "number"} & {*node.kinds}):
            return  # a number that is not known is null
        if isinstance(value, dict) and (others := [k for k in node.kinds if k in self.known]):
            _Walk(self.known, others[0]).seen(value, inside=True)
        elif isinstance(value, dict) and (node.children or not node.kinds):
            for key, child in node.children.items():
                if key not in value and NAME not in key and key not in without:
                    assert not child.needed(), f"{self.name}: {key} is in docs/json.md alone"
            for key, inner in value.items():
                found = node.child(key)
                assert found is not None, f"{self.name}: {key} is not in docs/json.md"
                self._walk(inner, found, set())
        elif isinstance(value, list) and "[]" in node.children:
            for inner in value:
                self._walk(inner, node.children["[]"], set())
        else:
            fits = [kind for kind in node.kinds if kind in _KINDS and _is(value, kind)]
            said = " or ".join(node.kinds) or "what the page says"
            assert fits, f"{self.name}: {node.path}={value!r} is not {said}"


def _is(value: Any, kind: str) -> bool:
    return isinstance(value, _KINDS[kind]) and isinstance(value, bool) == (kind == "boolean")
