"""Bootstrap draws of runs, or of whole clusters of runs whose losses share a fault.

Checkpoints of one run, or branches of one trunk, share its seed and its data. Drawn one by one they
count as many runs, and intervals are too narrow: so trunks are drawn, not points.
"""

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from analysis.fitting.intervals import Array
from analysis.fitting.text import pluralize
from analysis.settings import setting

_LEAST = 3
_FEW = 5  # clusters: below, a percentile of their draws says little


def cluster_codes(groups: ArrayLike, n: int) -> np.ndarray:
    """0, 1, ... for each of n runs, by its label.

    Raises ValueError for another number of labels, one that is missing, and below three clusters.
    """
    labels = pd.Series(np.asarray(groups, dtype=object).ravel())
    if len(labels) != n:
        raise ValueError(f"groups has {len(labels)} labels for {n} runs")
    if labels.isna().any():
        raise ValueError(
            f"groups[{int(labels.isna().argmax())}] is missing: give each run its group"
        )
    codes = np.asarray(pd.factorize(labels)[0])
    if codes.max() + 1 < _LEAST:
        raise ValueError(
            f"{setting('groups')} has {codes.max() + 1} values: a bootstrap needs at least "
            f"{_LEAST}; name a column that has more"
        )
    return codes


def joined(cells: ArrayLike, groups: ArrayLike) -> np.ndarray:
    """A label for each cell, 0, 1, ..., from the cell and the group of each run: cells that share a
    group have one label, and so have those that they share others with.

    A cell that averages seeds is of several groups, and draws with all that it has a part in.
    """
    cell, group = np.asarray(cells), np.asarray(pd.factorize(np.asarray(groups, dtype=object))[0])
    n = int(cell.max()) + 1
    edges = coo_array((np.ones(len(cell)), (cell, n + group)), shape=[n + int(group.max()) + 1] * 2)
    return np.asarray(connected_components(edges, directed=False)[1][:n])


def drawn_counts(
    n: int, n_draws: int, rng: np.random.Generator, clusters: np.ndarray | None = None
) -> Array:
    """(n_draws, n): how often each of n runs was drawn, each by itself or with its cluster."""
    n_units = n if clusters is None else int(clusters.max()) + 1
    counts = rng.multinomial(n_units, np.full(n_units, 1 / n_units), size=n_draws)
    return (counts if clusters is None else counts[:, clusters]).astype(np.float64)


def describe_draws(n_draws: int, clusters: np.ndarray | None = None) -> str:
    """How the intervals were made."""
    if clusters is None:
        return f"percentiles of {n_draws} case draws"
    return f"percentiles of {n_draws} draws of {pluralize(int(clusters.max()) + 1, 'cluster')}"


def few_clusters(clusters: np.ndarray | None) -> tuple[str, ...]:
    """Warning about fewer than five clusters; () of five or more, or without clusters."""
    if clusters is None or clusters.max() + 1 >= _FEW:
        return ()
    n = int(clusters.max()) + 1
    return (f"{n} clusters: their draws are too few kinds for an interval to be trusted",)
