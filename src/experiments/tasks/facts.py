"""Questions on a corpus of facts, as two local tasks: on those held in, and on those held out."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from experiments.data.facts import Facts
from experiments.data.folders import digest, identity
from experiments.data.stream import DomainStream
from experiments.system.disk import opened
from experiments.system.made_once import made_once
from experiments.tasks.items import SUFFIX, LocalTask, committed_tasks, read_task

NAMES = ("facts_held_in", "facts_held_out")
N_CHOICES = 4  # so chance is an accuracy of 1/4


def known_tasks() -> list[str]:
    """Names of conf/tasks, and NAMES."""
    return [*committed_tasks(), *NAMES]


def facts_tasks(names: Iterable[str], corpus: Any, cache: Path) -> list[LocalTask]:
    """Tasks of these NAMES on the facts of a run's corpus, written into the cache once.

    Of a stream those of its domains that are Facts, whether or not it learns them; of a corpus
    without any, those of Facts' own settings, so that a base run can be asked what it knows.
    Raises ValueError as Facts does.
    """
    names = list(names)
    if not names:
        return []
    corpora = _read_facts(corpus) or [Facts()]
    parts = [N_CHOICES, *(identity(facts) for facts in corpora)]
    folder = made_once(
        cache / "tasks" / f"facts-{digest(parts)}", lambda f: _write(corpora, cache, f)
    )
    return [read_task(folder / f"{name}{SUFFIX}") for name in names]


def _read_facts(corpus: Any) -> list[Facts]:
    parts = corpus.domains.values() if isinstance(corpus, DomainStream) else [corpus]
    return [part for part in parts if isinstance(part, Facts)]


def _write(corpora: Sequence[Facts], cache: Path, folder: Path) -> None:
    for i, name in enumerate(NAMES):
        with opened(folder / f"{name}{SUFFIX}", "w", encoding="utf-8") as file:
            for corpus in corpora:
                for item in corpus.items(corpus.facts(cache)[i], N_CHOICES):
                    file.write(json.dumps(item, ensure_ascii=False) + "\n")
