"""Patches of a finished run, from indices of its experts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from experiments.inspection.editing.applying import rows_of
from experiments.inspection.editing.patch import LayerEdits, LayerPatch, Patch
from experiments.inspection.interface import Inspected, inspected_layers
from experiments.models.digest import tensors_sha256
from experiments.models.transformer import Transformer

_RANGE = re.compile(r"([0-9]{1,10})(?:-([0-9]{1,10}))?")
_PAIR = re.compile(r"([0-9]{1,10}):([0-9]{1,10})")
_LIST = re.compile(r"\[([^\[\]]*)\]|[^\[\]]*")
_MOST = 2**24  # indices of a list


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Edits by index alone. added: pairs of an index, and the expert whose copy is put there."""

    removed: tuple[int, ...] = ()
    swapped: tuple[tuple[int, int], ...] = ()
    added: tuple[tuple[int, int], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.removed or self.swapped or self.added)


def make_patch(run_id: str, model: Transformer, edits: Mapping[str, LayerEdits]) -> Patch:
    """The patch of a run's model, by names of layers. Raises ValueError as Patch and
    inspected_layers do.
    """
    layers = {layer.name: layer for layer in inspected_layers(model, list(edits))}
    return Patch(
        run_id=run_id,
        weights=tensors_sha256(model.state_dict()),
        layers=tuple(
            LayerPatch(
                name=name, kind=layers[name].kind, n_experts=layers[name].n_experts, edits=own
            )
            for name, own in edits.items()
        ),
    )


def edits_of(wish: Wish, layer: Inspected, source: Inspected) -> LayerEdits:
    """The edits of a layer; copies are of source's experts. Raises ValueError for an index that is
    of neither, and for two edits of one expert.
    """
    plain = LayerEdits(
        removed=wish.removed, swapped=wish.swapped, added={at: {} for at, _ in wish.added}
    )
    if len(plain.added) < len(wish.added):
        raise ValueError(f"two experts are added at one index of {layer.name}; keep one")
    plain.check(layer.name, layer.n_experts)
    for _, expert in wish.added:
        if expert >= source.n_experts:
            raise ValueError(
                f"expert {expert} is not of {source.name}, which has 0 to {source.n_experts - 1}"
            )
    return replace(plain, added={at: rows_of(source, expert) for at, expert in wish.added})


def joined(first: LayerEdits, second: LayerEdits) -> LayerEdits:
    """Both; whether they are of one expert is for a check to say."""
    if twice := first.added.keys() & second.added.keys():
        raise ValueError(f"expert {min(twice)} is added by both; keep one")
    return LayerEdits(
        removed=first.removed + second.removed,
        swapped=first.swapped + second.swapped,
        added={**first.added, **second.added},
    )


def read_indices(text: str, key: str) -> tuple[int, ...]:
    """'[17,40-52]' to indices. Raises ValueError for another text."""
    found: list[int] = []
    for word in _words(text):
        match = _RANGE.fullmatch(word)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if low > high or high - low >= _MOST:
            raise ValueError(
                f"{key}={text}: {word!r} is no index and no range of them; give {key}=[17,40-52]"
            )
        found += range(low, high + 1)
    return tuple(found)


def read_pairs(text: str, key: str) -> tuple[tuple[int, int], ...]:
    """'[17:4000,5:6]' to pairs. Raises ValueError for another text."""
    found = []
    for word in _words(text):
        match = _PAIR.fullmatch(word)
        if match is None:
            raise ValueError(
                f"{key}={text}: {word!r} is no pair of experts; give {key}=[17:4000,5:6]"
            )
        found.append((int(match[1]), int(match[2])))
    return tuple(found)


def _words(text: str) -> Sequence[str]:
    """Those between commas, with brackets around all of them or without."""
    found = _LIST.fullmatch(text.strip())
    if found is None:
        return [text]  # which is none
    inner = found[0] if found[1] is None else found[1]
    return [word.strip() for word in inner.split(",") if word.strip()]
