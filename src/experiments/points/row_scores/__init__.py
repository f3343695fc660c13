"""Ways to choose the rows of a table that a step may change, a file each.

continual.row_score=NAME is NAME.py, whose score(use) gives each row a number. Of the rows that a
step retrieves, the continual.top_rows with the highest are changed (points/sparse_rows.py).
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from experiments.config.constraints import shown


@dataclass(frozen=True, kw_only=True)
class RowUse:
    """Use that a step makes of the N rows of a layer's tables.

    counts (N,): how often each is retrieved. documents (N,): of n_documents batches of the base
    corpus, counted before the first step, those that retrieve it. gradients: of each table, (N, d),
    sparse and coalesced, before they are clipped.
    """

    counts: Tensor
    documents: Tensor
    n_documents: int
    gradients: Sequence[Tensor]


Score = Callable[[RowUse], Tensor]  # (N,), at least 0; the highest rows are changed


def names() -> tuple[str, ...]:
    """Those of all ways."""
    return tuple(module.name for module in pkgutil.iter_modules(__path__))


def find_score(name: str) -> Score:
    """Way of that name. Raises ValueError if there is none."""
    if name not in names():
        raise ValueError(f"continual.row_score={shown(name)} is not one of {', '.join(names())}")
    score: Score = importlib.import_module(f"{__name__}.{name}").score
    return score
