"""Local format of a task: JSON lines, an item a line.

    {"context": "The sky is ", "choices": ["blue", "wooden"], "answer": 0}
    {"context": "Two and two are ", "answer": "four"}

The text that is scored is the context and a choice (or the answer), one after the other as they
are: nothing is put between them. A context may be empty.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.config.paths import conf_dir
from experiments.system.regular_files import read_regular

SUFFIX = ".jsonl"
_KEYS = ("context", "choices", "answer")
_FORMS = (
    '{"context": "...", "choices": ["...", "..."], "answer": 0} or {"context", "answer": "..."}'
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """A context and what may follow it; `right` is the place of the right one in `choices`.

    An item that has an answer alone has it as its one choice. line: in the file, from 1.
    """

    line: int
    context: str
    choices: tuple[str, ...]
    right: int

    @property
    def is_choice(self) -> bool:
        return len(self.choices) > 1

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """(context, continuation) of each choice."""
        return [(self.context, choice) for choice in self.choices]


@dataclass(frozen=True, kw_only=True)
class LocalTask:
    """Items of one file. digest: sha256 of the file."""

    name: str
    path: Path
    items: tuple[Item, ...]
    digest: str


def committed_tasks() -> list[str]:
    """Names of conf/tasks."""
    return sorted(path.stem for path in (conf_dir() / "tasks").glob(f"*{SUFFIX}"))


def find_task(name_or_path: str) -> Path | None:
    """File of a local task, if it is one: a name of conf/tasks, or a path.

    Raises ValueError for a path that is not a file.
    """
    if name_or_path in committed_tasks():
        return conf_dir() / "tasks" / f"{name_or_path}{SUFFIX}"
    path = Path(name_or_path).expanduser()
    if path.suffix != SUFFIX:
        return None
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise ValueError(f"tasks=[{name_or_path}]: {path} {what}; name a {SUFFIX} file of items")
    return path


def read_task(path: Path) -> LocalTask:
    """Raises ValueError, naming file, line, rule and remedy, for what is not an item."""
    content = read_regular(path)
    try:
        lines = content.decode().split("\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path}, line {line}: not UTF-8; save the file as UTF-8") from None
    items = [_item(line, f"{path}, line {i}", i) for i, line in enumerate(lines, 1) if line.strip()]
    if not items:
        raise ValueError(f"{path} has no item; write one a line: {_FORMS}")
    digest = hashlib.sha256(content).hexdigest()
    return LocalTask(name=path.stem, path=path, items=tuple(items), digest=digest)


def _item(text: str, where: str, line: int) -> Item:
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}); an item is {_FORMS}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{where}: {_cut(values)} is not an object; an item is {_FORMS}")
    if unknown := [key for key in values if key not in _KEYS]:
        raise ValueError(f"{where}: unknown key {unknown[0]!r}; an item is {_FORMS}")
    for key in ("context", "answer"):
        if key not in values:
            raise ValueError(f"{where}: no {key}; an item is {_FORMS}")
    context, answer = values["context"], values["answer"]
    _check_text(context, f"{where}: context")
    if "choices" not in values:
        _check_text(answer, f"{where}: answer", empty=False)
        return Item(line=line, context=context, choices=(answer,), right=0)
    choices = _choices(values["choices"], where)
    if type(answer) is not int or not 0 <= answer < len(choices):
        raise ValueError(
            f"{where}: answer={_cut(answer)} must be the place of the right choice, from 0 to "
            f"{len(choices) - 1}"
        )
    return Item(line=line, context=context, choices=choices, right=answer)


def _choices(given: Any, where: str) -> tuple[str, ...]:
    if not isinstance(given, list) or len(given) < 2:
        raise ValueError(f"{where}: choices={_cut(given)} must be a list of at least two texts")
    for i, choice in enumerate(given):
        _check_text(choice, f"{where}: choices[{i}]", empty=False)
        if choice in given[:i]:
            raise ValueError(
                f"{where}: choices[{i}] and choices[{given.index(choice)}] are equal "
                f"({_cut(choice)}); none could be the right one, so change or drop one"
            )
    return tuple(given)


def _check_text(value: Any, where: str, empty: bool = True) -> None:
    if not isinstance(value, str):
        raise ValueError(f"{where}={_cut(value)} must be a text, in double quotes")
    if not value and not empty:
        raise ValueError(f"{where} is empty; give it a text to be scored")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise ValueError(f"{where}={_cut(value)} has half a surrogate pair, which is no character")


def _cut(value: Any) -> str:
    """A value in a message, as the file has it, and short."""
    text = json.dumps(value) if isinstance(value, (dict, list, str)) else shown(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def name_twice(names: Sequence[str]) -> str | None:
    """First name that occurs twice."""
    return next((name for i, name in enumerate(names) if name in names[:i]), None)
