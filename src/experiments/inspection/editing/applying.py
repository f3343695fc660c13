"""A patch in a model, and out of it again: to the bit."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from experiments.inspection.editing.patch import LayerEdits, Patch
from experiments.inspection.interface import Inspected, inspected_layers
from experiments.models.digest import tensors_sha256
from experiments.models.transformer import Transformer


class Undo:
    """The rows that were replaced. undo() puts them back, the last first."""

    def __init__(self) -> None:
        self._kept: list[tuple[Tensor, Tensor, Tensor]] = []
        self._edited: dict[tuple[int, int], str] = {}

    def undo(self) -> None:
        with torch.no_grad():
            while self._kept:
                rows, chosen, before = self._kept.pop()
                rows[chosen] = before
        self._edited.clear()

    def note(self, layer: Inspected, edits: LayerEdits) -> None:
        """Raises ValueError for an expert that another layer's edits changed: they share rows."""
        where = layer.layer.slot_rows().data_ptr()
        for expert, _ in edits.edited():
            other = self._edited.setdefault((where, expert), layer.name)
            if other != layer.name:
                raise ValueError(
                    f"expert {expert} of {layer.name} is that of {other} too, whose rows it shares,"
                    " and both are edited; keep one"
                )

    def replace(self, rows: Tensor, experts: list[int], new: Tensor) -> None:
        """Rows (N, ...) at experts become new (n, ...)."""
        chosen = torch.tensor(experts, dtype=torch.int64, device=rows.device)
        self._kept.append((rows, chosen, rows[chosen].clone()))
        rows[chosen] = new


@contextmanager
def edited(layer: Inspected, edits: LayerEdits) -> Iterator[None]:
    """While it lasts, a layer's experts are as the edits say. Raises ValueError as apply()."""
    undo = Undo()
    try:
        _edit(layer, edits, undo)
        yield
    finally:
        undo.undo()


@contextmanager
def patched(model: Transformer, patch: Patch) -> Iterator[None]:
    """While it lasts, the model is as the patch says. Raises ValueError as apply()."""
    undo = apply(model, patch)
    try:
        yield
    finally:
        undo.undo()


def apply(model: Transformer, patch: Patch) -> Undo:
    """Edits the model, and returns what undoes it.

    Raises ValueError, and leaves the model as it was, for other weights than the patch was made
    for, a layer that is none or another, and rows of other names or sizes.
    """
    found = tensors_sha256(model.state_dict())
    if found != patch.weights:
        raise ValueError(
            f"the patch was made for other weights ({patch.weights[:8]}) of {patch.run_id} than "
            f"these ({found[:8]}): the run was trained again, or edited; make the patch again"
        )
    undo = Undo()
    try:
        names = [layer.name for layer in patch.layers]
        layers = {layer.name: layer for layer in inspected_layers(model, names)}
        for part in patch.layers:
            layer = layers[part.name]
            if (part.kind, part.n_experts) != (layer.kind, layer.n_experts):
                raise ValueError(
                    f"{part.name} is a {layer.kind} of {layer.n_experts} experts, and the patch is "
                    f"of a {part.kind} of {part.n_experts}; make the patch again"
                )
            _edit(layer, part.edits, undo)
    except BaseException:
        undo.undo()
        raise
    return undo


def rows_of(layer: Inspected, expert: int) -> dict[str, tuple[float, ...]]:
    """An expert's rows, exactly, as LayerEdits.added takes them."""
    tables = layer.layer.expert_rows()
    return {name: tuple(rows[expert].flatten().tolist()) for name, rows in tables.items()}


@torch.no_grad()
def _edit(layer: Inspected, edits: LayerEdits, undo: Undo) -> None:
    edits.check(layer.name, layer.n_experts)
    undo.note(layer, edits)
    tables = layer.layer.expert_rows()
    added = [_tensors(layer, expert, rows, tables) for expert, rows in edits.added.items()]
    if edits.removed:
        zero = layer.layer.slot_rows().new_zeros(())
        undo.replace(layer.layer.slot_rows(), list(edits.removed), zero)
    for name, rows in tables.items():
        if edits.swapped:
            first, second = (list(side) for side in zip(*edits.swapped, strict=True))
            undo.replace(rows, first + second, rows[second + first].clone())
        if added:
            undo.replace(rows, list(edits.added), torch.stack([one[name] for one in added]))


def _tensors(
    layer: Inspected, expert: int, given: Mapping[str, tuple[float, ...]], tables: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The rows of an added expert as the layer's tables have them; what its types can't hold to
    the bit is rounded.
    """
    what = f"the expert that is added at {expert} of {layer.name}"
    if given.keys() != tables.keys():
        raise ValueError(
            f"{what} has the rows {', '.join(sorted(given)) or 'none'}, and the layer has "
            f"{', '.join(tables)}"
        )
    found = {}
    for name, rows in tables.items():
        if len(given[name]) != rows[0].numel():
            raise ValueError(
                f"{name} of {what} has {len(given[name])} numbers, and must have {rows[0].numel()}"
            )
        row = torch.tensor(given[name], dtype=torch.float64).to(rows.dtype)
        if not row.isfinite().all():
            raise ValueError(f"{name} of {what} has a number too large for {rows.dtype}")
        found[name] = row.view(rows[0].shape).to(rows.device)
    return found
