"""Whether lm-evaluation-harness has a task, by the texts of its yamls.

Its own index parses all 14,000 of them, which takes up to a minute. A name that none of them
mentions is no task's, and that takes seconds.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from experiments.tasks.facts import known_tasks

_NAMED = re.compile(rb"^(?:task|group|tag):\s*[\"']?([\w.-]+)", re.MULTILINE)


def check_names(names: Iterable[str], also: Iterable[str]) -> None:
    """Raises ValueError for the first name, in order, that no yaml of the package mentions.

    also: other names that exist, for what is near.
    """
    missing, known = list(names), set(also)
    for path in _yamls():
        text = path.read_bytes()
        missing = [name for name in missing if not _mentions(text, name)]
        if not missing:
            return
        known.update(found.decode("utf-8", "replace") for found in _NAMED.findall(text))
    raise unknown_task(missing[0], known)


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


def _yamls() -> Iterator[Path]:
    spec = importlib.util.find_spec("lm_eval")  # which does not import it
    for package in (spec.submodule_search_locations or ()) if spec else ():
        for folder, _, files in os.walk(Path(package) / "tasks"):
            yield from (Path(folder, name) for name in sorted(files) if "yaml" in name)
