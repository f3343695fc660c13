"""A patch of single experts: made from indices, put into a model and out of it, to the bit."""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor

from experiments.inspection.editing.patch import LayerEdits, LayerPatch, Patch
from experiments.inspection.interface import Inspected, inspected_layers
from experiments.models.digest import tensors_sha256
from experiments.models.transformer import Transformer


def list_edits(
    layer: Inspected,
    source: Inspected,
    removed: Sequence[int] = (),
    swapped: Sequence[tuple[int, int]] = (),
    added: Sequence[tuple[int, int]] = (),
) -> LayerEdits:
    """Edits of a layer. added: pairs of an index, and the source's expert whose copy is put
    there. Raises ValueError for an index that is of neither, and for two edits of one expert.
    """
    if len(dict(added)) < len(added):
        raise ValueError(f"two experts are added at one index of {layer.name}; keep one")
    plain = LayerEdits(
        removed=tuple(removed), swapped=tuple(swapped), added={at: {} for at, _ in added}
    )
    plain.check(layer.name, layer.n_experts)
    for _, expert in added:
        if expert >= source.n_experts:
            raise ValueError(
                f"expert {expert} is not of {source.name}, which has 0 to {source.n_experts - 1}"
            )
    rows = {at: find_rows(source, expert) for at, expert in added}
    return LayerEdits(removed=plain.removed, swapped=plain.swapped, added=rows)


def find_rows(layer: Inspected, expert: int) -> dict[str, tuple[float, ...]]:
    """An expert's rows, exactly, as LayerEdits.added takes them."""
    tables = layer.layer.expert_rows()
    return {name: tuple(rows[expert].flatten().tolist()) for name, rows in tables.items()}


def make_patch(run_id: str, model: Transformer, edits: Mapping[str, LayerEdits]) -> Patch:
    """Patch of a run's model, by names of layers. Raises ValueError as Patch and
    inspected_layers do.
    """
    layers = {layer.name: layer for layer in inspected_layers(model, list(edits))}
    parts = (
        LayerPatch(name=name, kind=layers[name].kind, n_experts=layers[name].n_experts, edits=own)
        for name, own in edits.items()
    )
    return Patch(run_id=run_id, weights=tensors_sha256(model.state_dict()), layers=tuple(parts))


def apply(model: Transformer, patch: Patch) -> ExitStack:
    """Edits the model; closing what is returned puts all rows back, to the bit.

    Raises ValueError, and leaves the model as it was, for other weights than the patch was made
    for, a layer that is none or another, rows of other names or sizes, and an expert that two
    layers share and both edit.
    """
    found = tensors_sha256(model.state_dict())
    if found != patch.weights:
        raise ValueError(
            f"the patch was made for other weights ({patch.weights[:8]}) of {patch.run_id} than "
            f"these ({found[:8]}): the run was trained again, or edited; make the patch again"
        )
    names = [layer.name for layer in patch.layers]
    layers = {layer.name: layer for layer in inspected_layers(model, names)}
    owners: dict[tuple[int, int], str] = {}
    with ExitStack() as undo:
        for part in patch.layers:
            layer = layers[part.name]
            if (part.kind, part.n_experts) != (layer.kind, layer.n_experts):
                raise ValueError(
                    f"{part.name} is a {layer.kind} of {layer.n_experts} experts, and the patch is "
                    f"of a {part.kind} of {part.n_experts}; make the patch again"
                )
            for expert, _ in part.edits.edited():
                row = layer.layer.slot_rows().data_ptr(), expert
                if (other := owners.setdefault(row, layer.name)) != layer.name:
                    raise ValueError(
                        f"expert {expert} of {layer.name} is that of {other} too, whose rows it "
                        "shares, and both are edited; keep one"
                    )
            undo.enter_context(edited(layer, part.edits))
        return undo.pop_all()


def removed(layer: Inspected, experts: Iterable[int]) -> ExitStack:
    """As edited: these experts write nothing, since their rows are zeros.

    Tokens are routed as before, so that others' gates stay. Without all of them the layer writes
    what it has beside them alone. Where layers share their rows (memory_plus), it is of each.
    """
    return edited(layer, LayerEdits(removed=tuple(sorted({int(expert) for expert in experts}))))


def edited(layer: Inspected, edits: LayerEdits) -> ExitStack:
    """Edits a layer's experts; closing what is returned puts their rows back, to the bit. Raises
    ValueError, with all as it was, as LayerEdits.check and for rows that are not the layer's.
    """
    edits.check(layer.name, layer.n_experts)
    tables = layer.layer.expert_rows()
    added = [_tensors(layer, at, rows, tables) for at, rows in edits.added.items()]
    undo = ExitStack()

    def replace(rows: Tensor, experts: Sequence[int], new: Tensor) -> None:
        rows, chosen = rows.detach(), torch.tensor(experts, dtype=torch.int64, device=rows.device)
        undo.callback(rows.__setitem__, chosen, rows[chosen].clone())
        rows[chosen] = new.detach()

    if edits.removed:
        rows = layer.layer.slot_rows()
        replace(rows, edits.removed, rows.new_zeros(()))
    for name, rows in tables.items():
        if edits.swapped:
            first, second = (list(side) for side in zip(*edits.swapped, strict=True))
            replace(rows, first + second, rows[second + first].clone())
        if added:
            replace(rows, list(edits.added), torch.stack([one[name] for one in added]))
    return undo


def _tensors(
    layer: Inspected, expert: int, given: Mapping[str, tuple[float, ...]], tables: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Rows of an added expert as the layer's tables have them; what its types can't hold to
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
