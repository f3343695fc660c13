"""A patch: which experts of which layers are removed, exchanged or replaced. Stdlib only."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from experiments.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class LayerEdits:
    """The edits of the experts of one layer, each in one edit at most. Keys stay: what changes
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

    def describe(self) -> str:
        """'removes 2, swaps 1 pair, adds 3'."""
        n = len(self.swapped)
        parts = (
            (len(self.removed), f"removes {len(self.removed):,}"),
            (n, f"swaps {n:,} pair{'s' if n > 1 else ''}"),
            (len(self.added), f"adds {len(self.added):,}"),
        )
        return ", ".join(text for count, text in parts if count) or "changes nothing"


@dataclass(frozen=True, kw_only=True)
class LayerPatch:
    """The edits of a layer by its name, as blocks.1.ffn, and what it was made for: the class of the
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
