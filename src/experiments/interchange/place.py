"""Whether an export can be written at a place. Without torch, so that it is quick to say no."""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.system.disk import OTHER_FOLDER, check_writable, reached
from experiments.system.json_files import read_json
from experiments.system.version import install

MARKER = "export.json"


def check_folder(folder: Path, whose: str) -> None:
    """As check_place, of an export. whose: the run's id, and its patch's label."""

    def owner(marker: Mapping[str, Any]) -> str:
        return "the run " + marker["run_id"] + marker.get("patch", "")

    check_place(folder, f"the run {whose}", MARKER, owner, "export")


def check_place(
    folder: Path, whose: str, name: str, owner: Callable[[Mapping[str, Any]], str], what: str
) -> None:
    """Raises ValueError unless the folder is new, empty, or an earlier one of the same owner, and
    RuntimeError if nothing can be written beside it. name: of the JSON in it that tells the owner,
    and all of its files; what: the folder is, in a word.
    """
    check_writable(reached(folder.absolute()).parent, OTHER_FOLDER)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a new folder")
    present = {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }
    if not present:
        return
    try:
        marker = read_json(folder / name)
        earlier, known = owner(marker), set(marker["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder} is not empty, and no earlier {what}; name a new one") from None
    if earlier != whose:
        an = "an" if what[0] in "aeiou" else "a"
        raise ValueError(f"{folder} is {an} {what} of {earlier}; name another for {whose}")
    if others := sorted(present - known):
        raise ValueError(
            f"{folder} holds {others[0]} beside an earlier {what}, and would lose it; move it away"
        )


def check_safetensors() -> None:
    """Raises RuntimeError if the library that writes the weights is not installed."""
    if importlib.util.find_spec("safetensors") is None:
        raise RuntimeError(
            f"an export needs safetensors: pip install safetensors, or {install('hf')}"
        )
