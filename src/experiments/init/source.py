"""Where weights come from, and what a trunk must be to carry them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Trunk that carries some weights: models.transformer.TransformerConfig's fields.

    attention, norm, positions, residual: their config nodes, with `_target_`. ffns: that of each
    block's layer.
    name: what conf/model calls the layer of most blocks, for tables.
    max_seq_len: longer sequences are another function in the model that the weights are of, whose
        attention has a window, or none that they were trained on; None: it says neither.
    """

    n_layers: int
    d_model: int
    d_head: int
    vocab_size: int
    tie_head: bool
    attention: Mapping[str, Any]
    norm: Mapping[str, Any]
    positions: Mapping[str, Any]
    residual: Mapping[str, Any]
    ffns: tuple[Mapping[str, Any], ...]
    name: str = "dense"
    max_seq_len: int | None = None


class WeightSource(Protocol):
    """A frozen dataclass that conf/init/*.yaml names by its `_target_`."""

    def shape(self, cache: Path) -> Shape:
        """Reads headers alone. Raises ValueError for weights that the trunk can't carry."""
        ...

    def digest(self, cache: Path) -> str:
        """Sha256, 64 hex digits, of what the weights are, wherever they are."""
        ...

    def tokenizer(self, cache: Path) -> Mapping[str, Any]:
        """Config node of the weights' own tokenizer."""
        ...

    def state(self, cache: Path) -> dict[str, Tensor]:
        """Weights by the names of a Transformer of this shape, float32."""
        ...
