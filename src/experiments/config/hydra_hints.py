"""Habits from other Hydra projects: they work here too, or one line says why they can't.

It reads the command line, and the text of errors. Hydra is imported by who asks for its parser.
"""

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from experiments.config.constraints import check_once, shown
from experiments.config.paths import conf_dir

_LISTS = ("eval", "parts")  # groups of which several are chosen, or none
_SEVERAL = (*_LISTS, "logger")  # of which several may be chosen
_OPTIONAL = ("experiment", "ladder_model")  # by nobody's choice null
_PLACE = "runs are written to paths.results/sweep/<run id>: set paths.results=... and sweep=..."
NO_EFFECT = {  # settings of Hydra's, and the remedy
    "hydra.run.dir": _PLACE,
    "hydra.sweep.dir": _PLACE,
    "hydra.sweep.subdir": _PLACE,
    "hydra.output_subdir": "a run's folder has its config: leave it out",
    "hydra.job.chdir": "a run stays where its command was given, and writes to its own folder: "
    "leave it out",
}
# a group's old name, or that of a key which is now one
_RENAMED = {"scale": "ladder_model", "optim.matrices": "optim"}
_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")
_BARE_RANGE = re.compile(r"[:,]\s*((?:log|uniform|int|log_int)\([^)]*\))")
_FLAGS = ("-m", "--multirun")


def normalized(words: Sequence[str]) -> list[str]:
    """Command line as Hydra takes it.

    -m may stand anywhere, --info before overrides, and + before a group, which has a choice already
    (experiment's is null). Raises ValueError for what Hydra refuses without saying why, or ignores.
    """
    kept = []
    for i, word in enumerate(words):
        following = words[i + 1] if i + 1 < len(words) else ""
        name, equals, value = word.lstrip("+~").partition("=")
        if word in ("--info", "-i") and "=" in following:
            kept.append("--info=all")
            continue
        if equals and name in NO_EFFECT:
            raise ValueError(f"{word}: {name} has no effect here; {NO_EFFECT[name]}")
        _check_renamed(word)
        if name == "hydra.sweeper.search" and (bare := _BARE_RANGE.search(value)):
            raise ValueError(
                f"{word}: put {bare[1]} in quotes, as {{ladder.lr: 'log(2e-3, 4e-2)'}}; Hydra has "
                "functions of its own"
            )
        if word == "hydra/sweeper=basic":
            raise ValueError(
                f"{word} writes multirun.yaml before a point is checked; leave it out: the sweeper "
                "of this project takes the same commas, and grids"
            )
        if equals and name == "ladder_model":
            _check_ladder_model(word, value, words)
        if name in _groups():
            if word.startswith("~") and name not in (*_LISTS, *_OPTIONAL):
                raise ValueError(f"{word}: {name} needs one choice; {choices(name)}")
            word = word.lstrip("+")
            check_choices(word)
        kept.append(word)
    return sorted(kept, key=lambda word: word not in _FLAGS)


def _check_renamed(word: str) -> None:
    name, equals, value = word.lstrip("+~").partition("=")
    if equals and name in _RENAMED:
        now = _RENAMED[name]
        raise ValueError(f"{word}: this group of conf/ is now {now}; write {now}={value}")


def _check_ladder_model(word: str, value: str, words: Sequence[str]) -> None:
    """Hydra passes over an unknown choice of this group, because the group is optional."""
    plain = re.fullmatch(r"\w+", value) and value != "null"
    elsewhere = any(w.startswith(("--config-dir", "-cd")) for w in words)
    if plain and not elsewhere and value not in choice_names("ladder_model"):
        raise ValueError(f"{word} does not exist; {choices('ladder_model')}, or null")


def check_choices(word: str) -> None:
    """Raises ValueError for an override of a group of conf/ that chooses what is no name, or one
    name twice. Hydra takes the second silently, and of the first it says neither value nor remedy.
    And for one of a group's old name.
    """
    _check_renamed(word)
    group = word.partition("=")[0].lstrip("+").partition("@")[0]
    if word.startswith("~") or group not in _groups():
        return
    for value in _values(word):
        if isinstance(value, dict):  # values for the group's own keys
            continue
        listed = isinstance(value, list)
        if not (group in _SEVERAL and listed) and not isinstance(value, str):
            raise ValueError(f"{word}: {group} needs one choice; {choices(group)}")
        names = value if listed else [value]
        for name in names:
            if not (isinstance(name, str) and _NAME.fullmatch(name)):
                raise ValueError(f"{word}: {shown(name)} is no name; {choices(group)}")
        check_once(names, word)


def _values(word: str) -> Iterator[Any]:
    """Values that an override gives, one or those of a sweep; nothing of what Hydra refuses
    itself.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import ChoiceSweep, RangeSweep
    from hydra.errors import HydraException

    try:
        (override,) = OverridesParser.create().parse_overrides([word])
    except HydraException:
        return
    if not override.is_sweep_override():
        yield override.value()
    elif isinstance(override.value(), ChoiceSweep | RangeSweep):  # a glob has names of files alone
        for text in override.sweep_string_iterator():
            yield from _values(f"{override.key_or_group}={text}")


def choices(group: str) -> str:
    """A sentence with the choices of a group of conf/."""
    also = "; logger=csv logs to files alone" if group == "logger" else ""
    form = "[NAME,...]" if group in _LISTS else "NAME"
    return f"give {group}={form}, of {', '.join(choice_names(group))}{also}"


def choice_names(group: str) -> list[str]:
    """Choices of a group of conf/, without base.yaml and start.yaml, which choices share."""
    names = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
    return sorted(names - {"base", "start"})


def choices_with(group: str, key: str) -> str | None:
    """Choices of a group of conf/ whose yaml sets this key, as 'optim=muon or soap'."""
    sets = re.compile(rf"^{re.escape(key)}:", re.MULTILINE)
    files = sorted((conf_dir() / group).glob("*.yaml")) if group else ()
    names = [path.stem for path in files if sets.search(path.read_text(encoding="utf-8"))]
    return f"{group}={' or '.join(names)}" if names else None


def appended(words: Sequence[str], error: Exception) -> list[str] | None:
    """Command line with ++ before the key that Hydra says is not in the config.

    Our own reading then refuses that key with the nearest one that exists, or takes it where any
    key is taken, or some models of a sweep have it (Hydra asks the default model alone). None if
    that was not the error, or the key is not of this command line.
    """
    key = unknown_key(f"{error}\n{error.__cause__ or ''}")
    found = [word for word in words if word.partition("=")[0] == key]
    if not found or key is None or key.startswith("hydra."):
        return None
    return [f"++{word}" if word in found else word for word in words]


def unknown_key(text: str) -> str | None:
    """Key that an error of Hydra calls not in the config, if it is one of those."""
    named = re.search(r"Could not override '([^']+)'", text)
    return named[1] if named and "is not in struct" in text else None


def _groups() -> frozenset[str]:
    """Folders of yaml files in conf/, as model or hydra/launcher."""
    return _list_groups(conf_dir())


@functools.cache
def _list_groups(folder: Path) -> frozenset[str]:
    return frozenset(str(path.parent.relative_to(folder)) for path in folder.rglob("*/*.yaml"))
