"""Numbers of documents, each with what computes it: `python -m tests.study.snapshot [NAME ...]`.

claims/*.yaml are the table. A row of it has

    says     words of the document, with the numbers that are held in braces
    by       an expression that gives these numbers in their order, from the committed records, by
             functions of the modules of this folder that the file names
    holds    expressions that must be true, for what is said in words alone
    in       the documents, where they are others than the file's

A number holds to the digits that are printed, and has the form of what is printed: its sign, its
commas, its power of ten. A text in braces is compared as it is. Words that begin with | are a whole
table. The command computes the numbers of all rows, writes them into the table, and names what the
documents then don't say: read the diff, and change the documents. With a NAME it prints the rows of
claims/NAME.yaml as the records have them, and writes nothing.
"""

import importlib
import math
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import yaml

from tests.study.records import ROOT

CLAIMS = Path(__file__).parent / "claims"
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_BRACES = re.compile(r"\{([^{}]*)\}")
_NUMBER = re.compile(r"(?<![\w.])[-+]?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[-+]?\d+)?(?!\w)")

_RUNS = re.compile(r"(?<![\w.,-])(\d[\d,]*)(?: [\w'’*`]+){0,2} (?:runs|records|trials|seeds)\b")


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A row of the table."""

    says: str
    by: str = "()"
    holds: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.documents[0]}: {self.said()[:60]}"

    def said(self) -> str:
        """Words on one line, without braces."""
        return " ".join(_BRACES.sub(r"\1", self.says).split())

    def computed(self, says: str | None = None) -> str:
        """Words with the numbers that the records have now."""
        values = _flat(self._value(self.by))
        found = _BRACES.sub(lambda m: "{" + _fresh(m[1], values) + "}", says or self.says)
        left = list(values)
        if left:
            raise ValueError(f"{self}: {len(left)} values more than numbers in braces: {left[:5]}")
        return found

    def untrue(self) -> list[str]:
        """What should hold and does not."""
        return [each for each in self.holds if not self._value(each)]

    def unsaid(self) -> list[str]:
        """Documents that don't say so, or say it twice."""
        said = self.said()
        whole = re.match(r"\|.*\| ?-{3}", said)
        return [d for d in self.documents if (_blocks(d) if whole else _line(d)).count(said) != 1]

    def _value(self, expression: str) -> Any:
        return eval(f"({expression}\n)", _namespace(self.names))


@cache
def read(path: Path) -> list[Claim]:
    """Rows of a file."""
    table = yaml.load(path.read_text(encoding="utf-8"), _LOADER)
    return [_claim(row, table) for row in table["claims"]]


def _claim(row: dict[str, Any], table: dict[str, Any]) -> Claim:
    several = {key: row.pop(key, ()) for key in ("holds", "in")}
    of, documents = ((v,) if isinstance(v, str) else tuple(v) for v in several.values())
    documents = documents or (table["document"],)
    return Claim(**row, holds=of, documents=documents, names=tuple(table["names"]))


def unheld(document: str, claims: Iterable[Claim]) -> list[str]:
    """Numbers of three decimals or more, and of runs, that no row holds; but not of commands and
    what they print.
    """
    text = (ROOT / document).read_text(encoding="utf-8")
    text = re.sub(r"\n\| claim \|(?:.*\n\|)*.*", "", re.sub(r"(?s)```.*?```", "", text))
    line = " ".join(text.split())
    for claim in claims:
        if document in claim.documents:
            held = _BRACES.sub("held", " ".join(claim.says.split()))
            line = line.replace(claim.said(), held)
    return re.findall(r"(?<![\w.:/-])[-+]?\d+\.\d{3,}(?!\w)", line) + _RUNS.findall(line)


def remade(path: Path) -> str:
    """File with the numbers that the records have now."""
    text = path.read_text(encoding="utf-8")
    rows = dict(_items(yaml.compose(text, _LOADER)))["claims"].value
    for claim, row in reversed(list(zip(read(path), rows, strict=True))):
        node = dict(_items(row))["says"]
        start, end = node.start_mark.index, node.end_mark.index
        text = text[:start] + claim.computed(text[start:end]) + text[end:]
    return text


def _items(node: Any) -> Iterator[tuple[str, Any]]:
    return ((key.value, value) for key, value in node.value)


def _fresh(printed: str, values: Iterator[Any]) -> str:
    """What is in braces, with the next of the values: a text, or numbers in their form."""
    first = next(values, "nothing")
    if isinstance(first, str):
        return first
    each = chain([first], values)
    return _NUMBER.sub(lambda m: _form(next(each, math.nan), m[0]), printed)


def _form(value: float, printed: str) -> str:
    """A number as one that is printed: of as many decimals, by the same power of ten."""
    mantissa, e, power = printed.partition("e")
    decimals = len(mantissa.partition(".")[2])
    form = f"{'+' * (printed[0] == '+')}{',' * (',' in mantissa)}.{decimals}f"
    return f"{format(value / 10 ** int(power or 0), form)}{e}{power}"


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, str) or not isinstance(value, Iterable):
        yield value
    else:
        for each in value:
            yield from _flat(each)


@cache
def _namespace(names: tuple[str, ...]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        found |= vars(importlib.import_module(f"tests.study.{name}"))
    return found


@cache
def _line(document: str) -> str:
    return " ".join((ROOT / document).read_text(encoding="utf-8").split())


@cache
def _blocks(document: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return [" ".join(block.split()) for block in re.split(r"\n[ \t]*\n", text)]


def show(path: Path) -> None:
    """Prints the words of each row with the numbers that the records have now."""
    for claim in read(path):
        print(_BRACES.sub(r"\1", claim.computed()).strip(), end="\n\n")


def main() -> None:
    for name in sys.argv[1:]:
        show(CLAIMS / f"{name}.yaml")
    for path in sorted(CLAIMS.glob("*.yaml")) if not sys.argv[1:] else ():
        text = remade(path)
        if text != path.read_text(encoding="utf-8"):
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path.relative_to(ROOT)}")
        read.cache_clear()
        for claim in read(path):
            for document in claim.unsaid():
                print(f"{document} does not say (once): {claim.said()[:200]}")
            for each in claim.untrue():
                print(f"{claim} does not hold: {each}")


if __name__ == "__main__":
    main()
