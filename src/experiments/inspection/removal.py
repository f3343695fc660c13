"""A layer without some of its experts, for a while: undone to the bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from experiments.inspection.interface import Inspected


def check_experts(layer: Inspected, experts: Sequence[int]) -> None:
    """Raises ValueError for an index that is not of the layer."""
    for expert in experts:
        if not 0 <= expert < layer.n_experts:
            raise ValueError(
                f"expert {expert} is not of {layer.name}, which has 0 to {layer.n_experts - 1}"
            )


@contextmanager
def removed(layer: Inspected, experts: Sequence[int]) -> Iterator[None]:
    """While it lasts, these experts write nothing: their rows are zeros, and all else is as it was.

    Tokens are routed as before, so that others' gates stay. Without all of them the layer writes
    what it has beside them alone. Where layers share their rows (memory_plus), it is of each.
    """
    check_experts(layer, experts)
    rows = layer.layer.slot_rows()
    chosen = torch.tensor(sorted(set(experts)), dtype=torch.int64, device=rows.device)
    with torch.no_grad():
        kept = rows[chosen].clone()
        rows[chosen] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            rows[chosen] = kept
