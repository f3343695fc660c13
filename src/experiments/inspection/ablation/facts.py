"""A file of facts: prompts with what is to follow, and siblings that ask the same of others.

{"prompt": "The capital of France is", "target": " Paris",
 "siblings": [{"prompt": "The capital of Italy is", "target": " Rome"}, ...]}
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.inspection.ablation.result import FEWEST
from experiments.system.json_files import parse_json
from experiments.system.regular_files import read_regular

_FORM = '{"prompt": "...", "target": "...", "siblings": [{"prompt": "...", "target": "..."}, ...]}'
_LARGEST = 32 * 2**20  # bytes
_PAIR = ("prompt", "target")


@dataclass(frozen=True, kw_only=True)
class Fact:
    """line: in the file, from 1. siblings: at least one."""

    line: int
    prompt: str
    target: str
    siblings: tuple[tuple[str, str], ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(prompt, target) of the fact, and of its siblings."""
        return [(self.prompt, self.target), *self.siblings]


@dataclass(frozen=True, kw_only=True)
class Facts:
    """digest: sha256 of the file."""

    path: Path
    digest: str
    facts: tuple[Fact, ...]


def read_facts(path: Path) -> Facts:
    """Raises ValueError, naming file, line, rule and remedy, for what is no fact, and for too few:
    one fact that falls, or ten, say nothing of others.
    """
    try:
        content = read_regular(path, _LARGEST)
    except OSError as error:
        raise ValueError(f"facts={path} can't be read: {error.strerror}; name a file") from None
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; convert it first") from None
    facts = [
        _fact(text, f"{path}, line {number}", number)
        for number, text in enumerate(lines, 1)
        if text.strip()
    ]
    if len(facts) < FEWEST:
        raise ValueError(
            f"{path} has {len(facts)} facts, and specificity is told of at least {FEWEST}: one "
            "fact may fall with its siblings, or by chance; give more"
        )
    seen: dict[tuple[str, str], int] = {}
    for fact in facts:
        first = seen.setdefault((fact.prompt, fact.target), fact.line)
        if first != fact.line:
            raise ValueError(
                f"{path}, line {fact.line}: the fact of line {first} again, which would count as "
                "two; drop one"
            )
    digest = hashlib.sha256(content).hexdigest()
    return Facts(path=path, digest=digest, facts=tuple(facts))


def _fact(text: str, where: str, line: int) -> Fact:
    try:
        values = parse_json(text)
    except ValueError as error:
        raise ValueError(f"{where}: no JSON object ({error}); a fact is {_FORM}") from None
    if values.keys() != {*_PAIR, "siblings"}:
        raise ValueError(f"{where}: {', '.join(values)[:60]!r} are not its keys; a fact is {_FORM}")
    own = _pair({key: values[key] for key in _PAIR}, where)
    siblings = values["siblings"]
    if not isinstance(siblings, list) or not siblings:
        raise ValueError(f"{where}: siblings must be a list of at least one; a fact is {_FORM}")
    others = tuple(_pair(one, f"{where}, sibling {i}") for i, one in enumerate(siblings, 1))
    if own in others:
        raise ValueError(f"{where}: it is among its own siblings; drop it there")
    return Fact(line=line, prompt=own[0], target=own[1], siblings=others)


def _pair(values: Any, where: str) -> tuple[str, str]:
    if not isinstance(values, Mapping) or values.keys() != set(_PAIR):
        raise ValueError(
            f"{where} must have prompt and target, and nothing else; a fact is {_FORM}"
        )
    for key in _PAIR:
        value = values[key]
        if not isinstance(value, str) or (not value and key == "target"):
            raise ValueError(f"{where}: {key}={shown(value)[:60]} must be a text in double quotes")
        if any("\ud800" <= character <= "\udfff" for character in value):
            raise ValueError(f"{where}: {key} has half a surrogate pair, which is no character")
    return values["prompt"], values["target"]
