"""A patch: which experts of which layers are removed, exchanged or replaced; and its file, which is
data alone, held against its rules before it is used. Stdlib only.

{"format": 1, "run_id": "...", "weights": "sha256 of the model", "layers": [
 {"name": "blocks.1.ffn", "kind": "PEER", "n_experts": 4096,
  "remove": [17], "swap": [[1, 2]], "add": [{"expert": 5, "rows": {"w_down": [...], ...}}]}]}
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from experiments.config.constraints import shown
from experiments.config.words import PATCH
from experiments.records.record import RunRecord
from experiments.system.disk import OTHER_FOLDER, check_writable, reached, write_text_atomically
from experiments.system.json_files import LARGEST, read_json
from experiments.system.regular_files import read_regular

if TYPE_CHECKING:
    from experiments.models.transformer import Transformer

SUFFIX = ".json"
_FORMAT = 1
_OF_FILE = {"format": int, "run_id": str, "weights": str, "layers": list}
_OF_LAYER = {"name": str, "kind": str, "n_experts": int, "remove": list, "swap": list, "add": list}
_OF_ADDED = {"expert": int, "rows": dict}
_MOST = 2**31  # experts of a layer
_REMEDY = "make the patch again (python -m experiments.inspect patch)"
_Parsed = TypeVar("_Parsed")


@dataclass(frozen=True, kw_only=True)
class LayerEdits:
    """Edits of the experts of one layer, each in one edit at most. Keys stay: what changes
    is what is found there.

    removed: they write nothing. swapped: pairs that change places, with all of their rows. added:
    by index, the rows of an expert that is put there, by the names that the layer has for them
    (Slotted.expert_rows), each as a flat list of numbers.
    """

    removed: tuple[int, ...] = ()
    swapped: tuple[tuple[int, int], ...] = ()
    added: Mapping[int, Mapping[str, tuple[float, ...]]] = field(default_factory=dict)

    def edited(self) -> Iterator[tuple[int, str]]:
        """Each expert that an edit names, and the edit."""
        yield from ((expert, "remove") for expert in self.removed)
        yield from ((expert, "swap") for pair in self.swapped for expert in pair)
        yield from ((expert, "add") for expert in self.added)

    def check(self, name: str, n_experts: int) -> None:
        """Raises ValueError for an index that is not of the layer, and for two edits of one."""
        first: dict[int, str] = {}
        for expert, edit in self.edited():
            if not 0 <= expert < n_experts:
                raise ValueError(
                    f"expert {expert} is not of {name}, which has 0 to {n_experts - 1}"
                )
            if expert in first:
                raise ValueError(
                    f"expert {expert} of {name} is in two edits ({first[expert]} and {edit}), and "
                    "which came first would matter; keep one"
                )
            first[expert] = edit

    def __add__(self, other: "LayerEdits") -> "LayerEdits":
        """Both; whether they are of one expert is for a check to say."""
        if twice := self.added.keys() & other.added.keys():
            raise ValueError(f"expert {min(twice)} is added by both; keep one")
        return LayerEdits(
            removed=self.removed + other.removed,
            swapped=self.swapped + other.swapped,
            added={**self.added, **other.added},
        )

    def describe(self) -> str:
        """'removes 2, swaps 1 pair, adds 3'."""
        r, s, a = (len(edits) for edits in (self.removed, self.swapped, self.added))
        words = (f"removes {r:,}", f"swaps {s:,} pair{'s' if s > 1 else ''}", f"adds {a:,}")
        return ", ".join(text for n, text in zip((r, s, a), words) if n) or "changes nothing"


@dataclass(frozen=True, kw_only=True)
class LayerPatch:
    """Edits of a layer by its name, as blocks.1.ffn, and what it was made for: the class of the
    layer, and N.
    """

    name: str
    kind: str
    n_experts: int
    edits: LayerEdits

    def __post_init__(self) -> None:
        self.edits.check(self.name, self.n_experts)


@dataclass(frozen=True, kw_only=True)
class Patch:
    """weights: the sha256 of the model that it was made for (tensors_sha256).
    label: the mark of results with it, @patch=NAME-DIGEST, of a file; '' of one that is none.
    """

    run_id: str
    weights: str
    layers: tuple[LayerPatch, ...]
    label: str = ""

    def __post_init__(self) -> None:
        if not self.layers:
            raise ValueError("it changes nothing; give remove=, swap= or add=")
        for name, n in Counter(layer.name for layer in self.layers).items():
            if n > 1:
                raise ValueError(f"it names {name} {n} times; put its edits together")

    def change(self, model: "Transformer") -> None:
        """Edits the model. Raises ValueError as applying.apply, which can undo it, too."""
        from experiments.inspection.editing.applying import apply  # it needs torch

        apply(model, self)

    def describe(self) -> list[str]:
        """A line a layer."""
        return [
            f"{layer.name} ({layer.kind}, {layer.n_experts:,} experts): {layer.edits.describe()}"
            for layer in self.layers
        ]


def read_patch(path: Path, run_dir: Path, record: RunRecord) -> Patch:
    """Patch in a file, for a run. No model is read for it.

    Raises ValueError, in one line, for a file that is no patch, and for one of another run.
    """
    try:
        values = _checked(read_json(path), _OF_FILE, "the file")
        if values["format"] != _FORMAT:
            raise ValueError(f"it has format {values['format']}, and this version reads {_FORMAT}")
        if not re.fullmatch("[0-9a-f]{64}", values["weights"]):
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
    """Patch that a command line names, if it does; by its own keys' values."""
    if PATCH not in values:
        return None
    return read_patch(Path(values[PATCH]).expanduser(), run_dir, record)


def write_patch(path: Path, patch: Patch) -> None:
    """Writes a new file. Raises ValueError if there is one, and for a patch that is not small."""
    check_new(path)
    layers = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "n_experts": layer.n_experts,
            "remove": layer.edits.removed,
            "swap": layer.edits.swapped,
            "add": [{"expert": at, "rows": dict(rows)} for at, rows in layer.edits.added.items()],
        }
        for layer in patch.layers
    ]
    about = {"format": _FORMAT, "run_id": patch.run_id, "weights": patch.weights}
    text = json.dumps({**about, "layers": layers}) + "\n"
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


def _layer(given: Any) -> LayerPatch:
    values = _checked(given, _OF_LAYER, "a layer")
    name, n_experts = values["name"], values["n_experts"]
    if not 1 <= n_experts < _MOST:
        raise ValueError(f"n_experts={shown(n_experts)} of {name} is no number of experts")
    added: dict[int, dict[str, tuple[float, ...]]] = {}
    for one in values["add"]:
        at = _checked(one, _OF_ADDED, "an added expert")
        if at["expert"] in added:
            raise ValueError(f"expert {shown(at['expert'])} of {name} is added twice; keep one")
        added[at["expert"]] = {key: _numbers(row, key) for key, row in at["rows"].items()}
    if not all(isinstance(pair, list) and len(pair) == 2 for pair in values["swap"]):
        raise ValueError("swap must be of pairs of experts")
    for expert in (*values["remove"], *(one for pair in values["swap"] for one in pair)):
        if type(expert) is not int:
            raise ValueError(f"{shown(expert)[:40]} is not the index of an expert")
    edits = LayerEdits(
        removed=tuple(values["remove"]), swapped=tuple(map(tuple, values["swap"])), added=added
    )
    return LayerPatch(name=name, kind=values["kind"], n_experts=n_experts, edits=edits)


def _checked(given: Any, kinds: dict[str, type], what: str) -> dict[str, Any]:
    """An object with these keys, no other, of these kinds. A bool is no number."""
    if not isinstance(given, dict) or given.keys() != kinds.keys():
        raise ValueError(f"{what} must have {', '.join(kinds)}, and nothing else")
    for key, kind in kinds.items():
        if type(given[key]) is not kind:
            raise ValueError(f"{key} of {what} is a {type(given[key]).__name__}")
    return given


def _numbers(given: Any, name: str) -> tuple[float, ...]:
    if not isinstance(given, list) or any(type(n) not in (int, float) for n in given):
        raise ValueError(f"row {name[:40]!r} of an added expert is no list of numbers")
    found = tuple(map(float, given))
    if not all(map(math.isfinite, found)):
        raise ValueError(f"row {name[:40]!r} of an added expert has a number that is not finite")
    return found


def read_indices(text: str, key: str) -> tuple[int, ...]:
    """'[17,40-52]' to indices. Raises ValueError for another text."""

    def index(word: str) -> range:
        match = re.fullmatch(r"([0-9]{1,10})(?:-([0-9]{1,10}))?", word)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        return range(low, high + 1 if high - low < 2**24 else 0)

    found = _typed(text, key, index, "no index and no range of them", "[17,40-52]")
    return tuple(i for own in found for i in own)


def read_pairs(text: str, key: str) -> tuple[tuple[int, int], ...]:
    """'[17:4000,5:6]' to pairs. Raises ValueError for another text."""

    def pair(word: str) -> tuple[int, int] | None:
        match = re.fullmatch(r"([0-9]{1,10}):([0-9]{1,10})", word)
        return match and (int(match[1]), int(match[2]))

    return tuple(filter(None, _typed(text, key, pair, "no pair of experts", "[17:4000,5:6]")))


def _typed(
    text: str, key: str, read: Callable[[str], _Parsed], what: str, example: str
) -> Iterator[_Parsed]:
    """Each word between commas, with brackets around all of them or without; read returns nothing
    for what it can't read.
    """
    listed = re.fullmatch(r"\[([^\[\]]*)\]|([^\[\]]*)", text.strip())
    words = (listed[1] or listed[2] or "").split(",") if listed else [text]
    for word in filter(None, map(str.strip, words)):
        if not (found := read(word)):
            raise ValueError(f"{key}={text}: {word!r} is {what}; give {key}={example}")
        yield found
