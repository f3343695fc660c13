"""Habits from other Hydra projects: they work here too, or one line says why they can't.

Standard library only; it reads the command line, and the text of errors.
"""

import re
from collections.abc import Sequence

from experiments.config.paths import conf_dir

_OPTIONAL = ("eval", "parts", "experiment", "ladder_model", "hydra")  # may be empty, or lists
_NO_EFFECT = ("hydra.run.dir", "hydra.sweep.dir", "hydra.sweep.subdir")
_RENAMED = {"scale": "ladder_model"}  # a group's old name: what it is now
_BARE_RANGE = re.compile(r"[:,]\s*((?:log|uniform|int|log_int)\([^)]*\))")
_FLAGS = ("-m", "--multirun")


def normalized(words: Sequence[str]) -> list[str]:
    """The command line as Hydra takes it.

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
        if equals and name in _NO_EFFECT:
            raise ValueError(
                f"{word}: {name} has no effect here; runs are written to "
                "paths.results/sweep/<run id>: set paths.results=... and sweep=..."
            )
        if equals and name in _RENAMED:
            now = _RENAMED[name]
            raise ValueError(f"{word}: this group of conf/ is now {now}; write {now}={value}")
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
            if name not in _OPTIONAL and (word.startswith("~") or value == "null" or "[" in value):
                raise ValueError(f"{word}: {name} needs one choice; {choices(name)}")
            word = word.lstrip("+")
        kept.append(word)
    return sorted(kept, key=lambda word: word not in _FLAGS)


def _check_ladder_model(word: str, value: str, words: Sequence[str]) -> None:
    """Hydra passes over an unknown choice of this group, because the group is optional."""
    plain = re.fullmatch(r"\w+", value) and value != "null"
    elsewhere = any(w.startswith(("--config-dir", "-cd")) for w in words)
    if plain and not elsewhere and value not in choice_names("ladder_model"):
        raise ValueError(f"{word} does not exist; {choices('ladder_model')}, or null")


def choices(group: str) -> str:
    """A sentence with the choices of a group of conf/."""
    also = "; logger=csv logs to files alone" if group == "logger" else ""
    return f"give {group}=NAME, of {', '.join(choice_names(group))}{also}"


def choice_names(group: str) -> list[str]:
    """The choices of a group of conf/, without base.yaml and start.yaml, which choices share."""
    names = {path.stem for path in (conf_dir() / group).glob("*.yaml")}
    return sorted(names - {"base", "start"})


def appended(words: Sequence[str], error: Exception) -> list[str] | None:
    """The command line with ++ before the key that Hydra says is not in the config.

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
    """The key that an error of Hydra calls not in the config, if it is one of those."""
    named = re.search(r"Could not override '([^']+)'", text)
    return named[1] if named and "is not in struct" in text else None


def _groups() -> list[str]:
    return [path.name for path in conf_dir().iterdir() if path.is_dir()]
