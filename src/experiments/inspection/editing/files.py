"""A patch in a file: JSON, data alone, held against its rules before it is used. Stdlib only.

{"format": 1, "run_id": "...", "weights": "sha256 of the model", "layers": [
 {"name": "blocks.1.ffn", "kind": "PEER", "n_experts": 4096,
  "remove": [17], "swap": [[1, 2]], "add": [{"expert": 5, "rows": {"w_down": [...], ...}}]}]}
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from experiments.config.constraints import shown
from experiments.config.words import PATCH
from experiments.inspection.editing.patch import LayerEdits, LayerPatch, Patch
from experiments.records.record import RunRecord
from experiments.system.disk import OTHER_FOLDER, check_writable, reached, write_text_atomically
from experiments.system.json_files import LARGEST, read_json
from experiments.system.regular_files import read_regular

SUFFIX = ".json"
_FORMAT = 1
_OF_FILE = {"format": int, "run_id": str, "weights": str, "layers": list}
_OF_LAYER = {"name": str, "kind": str, "n_experts": int, "remove": list, "swap": list, "add": list}
_OF_ADDED = {"expert": int, "rows": dict}
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MOST = 2**31  # experts of a layer
_REMEDY = "make the patch again (python -m experiments.patch)"


def read_patch(path: Path, run_dir: Path, record: RunRecord) -> Patch:
    """The patch in a file, for a run. No model is read for it.

    Raises ValueError, in one line, for a file that is no patch, and for one of another run.
    """
    try:
        values = _checked(read_json(path), _OF_FILE, "the file")
        if values["format"] != _FORMAT:
            raise ValueError(f"it has format {values['format']}, and this version reads {_FORMAT}")
        if not _DIGEST.fullmatch(values["weights"]):
            raise ValueError("weights is no sha256")
        patch = Patch(
            run_id=values["run_id"],
            weights=values["weights"],
            layers=tuple(_layer(layer) for layer in values["layers"]),
        )
        digest = hashlib.sha256(read_regular(path)).hexdigest()
    except FileNotFoundError:
        raise ValueError(f"{PATCH}={path} does not exist; name the file of a patch") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or str(error)
        raise ValueError(f"{path} is no patch that can be used: {why}; {_REMEDY}") from None
    if patch.run_id != record.run_id:
        raise ValueError(
            f"{path} is a patch of the run {patch.run_id}, and {run_dir} is {record.run_id}; name "
            "the run that it was made for"
        )
    return replace(patch, label=f"@{PATCH}={path.stem}-{digest[:8]}")


def named_patch(values: Mapping[str, str], run_dir: Path, record: RunRecord) -> Patch | None:
    """The patch that a command line names, if it does; by its own keys' values."""
    if PATCH not in values:
        return None
    return read_patch(Path(values[PATCH]).expanduser(), run_dir, record)


def write_patch(path: Path, patch: Patch) -> None:
    """Writes a new file. Raises ValueError if there is one, and for a patch that is not small."""
    check_new(path)
    values = {
        "format": _FORMAT,
        "run_id": patch.run_id,
        "weights": patch.weights,
        "layers": [_said(layer) for layer in patch.layers],
    }
    text = json.dumps(values) + "\n"
    if len(text) > LARGEST:
        raise ValueError(
            f"{path} would have {len(text) / 2**20:.0f} MiB, and a patch has at most "
            f"{LARGEST >> 20}; add fewer experts at once"
        )
    write_text_atomically(reached(path), text, then=OTHER_FOLDER)


def check_new(path: Path) -> None:
    """Raises ValueError unless a patch can be written under this name."""
    if path.suffix != SUFFIX:
        raise ValueError(f"{path} must end with {SUFFIX}; name the file so")
    if path.exists():
        raise ValueError(f"{path} exists; name another file, or delete it")
    if not path.absolute().parent.is_dir():
        raise ValueError(f"{path.parent} is not a folder; make it first")
    check_writable(reached(path.absolute()).parent, OTHER_FOLDER)


def _said(layer: LayerPatch) -> dict[str, Any]:
    edits = layer.edits
    return {
        "name": layer.name,
        "kind": layer.kind,
        "n_experts": layer.n_experts,
        "remove": list(edits.removed),
        "swap": [list(pair) for pair in edits.swapped],
        "add": [{"expert": expert, "rows": dict(rows)} for expert, rows in edits.added.items()],
    }


def _layer(given: Any) -> LayerPatch:
    values = _checked(given, _OF_LAYER, "a layer")
    name = values["name"]
    if not 1 <= values["n_experts"] < _MOST:
        raise ValueError(
            f"n_experts={shown(values['n_experts'])} of {name} is no number of experts"
        )
    added: dict[int, dict[str, tuple[float, ...]]] = {}
    for one in values["add"]:
        at = _checked(one, _OF_ADDED, "an added expert")
        if at["expert"] in added:
            raise ValueError(f"expert {shown(at['expert'])} of {name} is added twice; keep one")
        added[at["expert"]] = {key: _numbers(row, key) for key, row in at["rows"].items()}
    edits = LayerEdits(
        removed=tuple(_index(expert) for expert in values["remove"]),
        swapped=tuple(_pair(pair) for pair in values["swap"]),
        added=added,
    )
    return LayerPatch(name=name, kind=values["kind"], n_experts=values["n_experts"], edits=edits)


def _checked(given: Any, kinds: dict[str, type], what: str) -> dict[str, Any]:
    """An object with these keys, no other, of these kinds. A bool is no number."""
    if not isinstance(given, dict) or given.keys() != kinds.keys():
        raise ValueError(f"{what} must have {', '.join(kinds)}, and nothing else")
    for key, kind in kinds.items():
        if type(given[key]) is not kind:
            raise ValueError(f"{key} of {what} is a {type(given[key]).__name__}")
    return given


def _index(given: Any) -> int:
    if type(given) is not int:
        raise ValueError(f"{shown(given)[:40]} is not the index of an expert")
    return given


def _pair(given: Any) -> tuple[int, int]:
    if not isinstance(given, list) or len(given) != 2:
        raise ValueError("swap must be of pairs of experts")
    return _index(given[0]), _index(given[1])


def _numbers(given: Any, name: str) -> tuple[float, ...]:
    if not isinstance(given, list) or any(type(n) not in (int, float) for n in given):
        raise ValueError(f"row {name[:40]!r} of an added expert is no list of numbers")
    found = tuple(map(float, given))
    if not all(map(math.isfinite, found)):
        raise ValueError(f"row {name[:40]!r} of an added expert has a number that is not finite")
    return found
