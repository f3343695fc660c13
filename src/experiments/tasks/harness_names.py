"""Whether lm-evaluation-harness has a task, by the texts of its yamls.

Its own index parses all 14,000 of them, which takes up to a minute. A name that none of them
mentions is no task's, and that takes seconds.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from experiments.system.regular_files import read_regular
from experiments.system.version import install
from experiments.tasks.facts import known_tasks
from experiments.tasks.items import SUFFIX

_NAMED = re.compile(rb"\b(?:task|group|tag)[\"']?:\s*[\"']?([\w.-]+)")


def check_extra(names: Sequence[str] = ()) -> None:
    """Raises RuntimeError if lm-evaluation-harness is not installed."""
    if importlib.util.find_spec("lm_eval") is None:
        ours = f"{', '.join(known_tasks())} and {SUFFIX} files are ours, and "
        raise RuntimeError(
            (f"tasks=[{','.join(names)}]: {ours}others are" if names else "this is")
            + f" lm-evaluation-harness', which is not installed: {install('lm-eval')}"
        )


def check_names(names: Iterable[str], folder: Path | None = None) -> None:
    """Raises ValueError for the first name, in order, that no yaml mentions, of the folder or of
    the package.
    """
    missing, known = list(names), set[str]()
    for path in _yamls(folder) if missing else ():
        text = read_regular(path)
        missing = [name for name in missing if not _mentions(text, name)]
        if not missing:
            return
        known.update(found.decode("utf-8", "replace") for found in _NAMED.findall(text))
    if missing:
        raise unknown_task(missing[0], known)


def harness_names(folder: Path | None = None) -> list[str]:
    """Names of tasks, groups and tags that the yamls have, of the folder and of the package."""
    found = (name for path in _yamls(folder) for name in _NAMED.findall(read_regular(path)))
    return sorted({name.decode("utf-8", "replace") for name in found})


def unknown_task(name: str, known: Iterable[str]) -> ValueError:
    """For a name that is no task's; known: the names that exist."""
    near = difflib.get_close_matches(name, known, n=3)
    return ValueError(
        f"tasks=[{name}]: neither a file, nor one of {', '.join(known_tasks())}, nor a task of "
        "lm-evaluation-harness" + (f"; near it are {', '.join(near)}" if near else "")
    )


def _mentions(text: bytes, name: str) -> bool:
    word = name.encode("utf-8", "replace")
    return word in text and bool(re.search(rb"(?<![\w.-])%s(?![\w.-])" % re.escape(word), text))


def _yamls(folder: Path | None) -> Iterator[Path]:
    spec = importlib.util.find_spec("lm_eval")  # which does not import it
    packages = (spec.submodule_search_locations or ()) if spec else ()
    for top in [*([folder] if folder else []), *(Path(package) / "tasks" for package in packages)]:
        for below, _, files in os.walk(top):
            yield from (Path(below, name) for name in sorted(files) if "yaml" in name)
