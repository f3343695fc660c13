"""Whether an export can be written at a place. Without torch, so that it is quick to say no."""

import importlib.util
from pathlib import Path

from experiments.system.disk import OTHER_FOLDER, check_writable, reached
from experiments.system.json_files import read_json
from experiments.system.version import install

MARKER = "export.json"


def check_folder(folder: Path, whose: str) -> None:
    """Raises ValueError unless the folder is new, empty, or an earlier export of that run (with
    the same patch: whose is its id, and the patch's label), and RuntimeError if nothing can be
    written beside it.
    """
    check_writable(reached(folder.absolute()).parent, OTHER_FOLDER)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"{folder} is a file; name a new folder")
    present = {path.name for path in folder.iterdir()}
    if not present:
        return
    try:
        marker = read_json(folder / MARKER)
        earlier, known = marker["run_id"] + marker.get("patch", ""), set(marker["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise ValueError(f"{folder} is not empty, and no earlier export; name a new one") from None
    if earlier != whose:
        raise ValueError(f"{folder} is an export of the run {earlier}; name another for {whose}")
    if others := sorted(present - known):
        raise ValueError(
            f"{folder} holds {others[0]} beside an earlier export, and would lose it; move it away"
        )


def check_safetensors() -> None:
    """Raises RuntimeError if the library that writes the weights is not installed."""
    if importlib.util.find_spec("safetensors") is None:
        raise RuntimeError(
            f"an export needs safetensors: pip install safetensors, or {install('hf')}"
        )
