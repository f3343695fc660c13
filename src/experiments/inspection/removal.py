"""A layer without some of its experts, for a while: undone to the bit."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from experiments.inspection.editing.applying import edited
from experiments.inspection.editing.patch import LayerEdits
from experiments.inspection.interface import Inspected


@contextmanager
def removed(layer: Inspected, experts: Sequence[int]) -> Iterator[None]:
    """While it lasts, these experts write nothing: their rows are zeros, and all else is as it was.

    Tokens are routed as before, so that others' gates stay. Without all of them the layer writes
    what it has beside them alone. Where layers share their rows (memory_plus), it is of each.
    """
    with edited(layer, LayerEdits(removed=tuple(sorted(set(experts))))):
        yield
