"""Tasks of a command line's `tasks=[...]`: our files, and lm-evaluation-harness' tasks."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from experiments.config.constraints import shown
from experiments.tasks.facts import NAMES
from experiments.tasks.harness_names import check_extra, check_names
from experiments.tasks.harness_rule import OPTIONS, HarnessRule, read_rule
from experiments.tasks.items import LocalTask, find_task, name_twice, read_task

TASKS, FOLDER = "tasks", "tasks_folder"


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """facts: names of the tasks that are made of a run's corpus (tasks/facts.py).
    harness: names and yaml files; folder: where their yamls are looked for too; rule: how they are
    asked.
    """

    local: tuple[LocalTask, ...] = ()
    facts: tuple[str, ...] = ()
    harness: tuple[str, ...] = ()
    folder: Path | None = None
    rule: HarnessRule = field(default_factory=HarnessRule)

    def __bool__(self) -> bool:
        return bool(self.local or self.facts or self.harness)


def choose(given: Mapping[str, str]) -> Chosen:
    """Tasks that tasks= and tasks_folder= name, as they were typed, and how they are asked.

    Reads our files. Raises ValueError for what names no task, for a file that is not one, for names
    that occur twice, and for options of tasks that have none; RuntimeError for tasks of
    lm-evaluation-harness, if it is not installed.
    """
    words = [f"{key}={given[key]}" for key in (TASKS, FOLDER) if key in given]
    values: dict[str, Any] = {}
    for override in OverridesParser.create().parse_overrides(words):
        if override.is_sweep_override():
            raise ValueError(f"{override.input_line}: give a list, as tasks=[cloze,grammar]")
        values[override.key_or_group] = override.value()
    names = _names(values.get(TASKS) or [])
    folder = values.get(FOLDER)
    if folder is not None and not Path(str(folder)).expanduser().is_dir():
        raise ValueError(f"{FOLDER}={folder} is not a folder; name one with yamls of tasks")
    made = tuple(name for name in names if name in NAMES)
    others = [name for name in names if name not in NAMES]
    files = [find_task(name) for name in others]
    local = tuple(read_task(path) for path in files if path is not None)
    harness = tuple(name for name, path in zip(others, files, strict=True) if path is None)
    if (twice := name_twice([*(task.name for task in local), *made, *harness])) is not None:
        raise ValueError(
            f"tasks=[{','.join(names)}] names {twice} twice, and a record has one place for it; "
            "drop or rename one"
        )
    found = Path(str(folder)).expanduser() if folder is not None else None
    if harness:
        check_extra(harness)
    check_names((name for name in harness if not Path(name).is_file()), found)
    options = [f"{key}={given[key]}" for key in OPTIONS if key in given]
    if options and (not harness or local or made):
        ours = ", ".join([*(task.name for task in local), *made])
        why = f"{ours} is not: score it by itself" if ours else "none is named: name one"
        raise ValueError(f"{options[0]} is of lm-evaluation-harness' tasks, and {why}")
    rule = read_rule(given)
    return Chosen(local=local, facts=made, harness=harness, folder=found, rule=rule)


def _names(given: Any) -> list[str]:
    """Names, as text; one alone needs no brackets."""
    if not isinstance(given, list):
        given = [given]
    names = [name if isinstance(name, str) else shown(name) for name in given]
    if bad := [name for name in names if not name.strip()]:
        raise ValueError(f"tasks=[{','.join(names)}] has an empty name {bad[0]!r}; drop it")
    return names
