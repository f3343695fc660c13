"""Puts rows on a square grid of lines and places, so that a sub-key can say what is there.

A product key is a pair of sub-keys, and its score the sum of theirs. So experts can be retrieved by
what they are only if those that share a sub-key are alike.
"""

from itertools import pairwise

import torch
from torch import Tensor

_ROUNDS = 4  # of the two-means, and of the search for where it begins
# Rows are compared by random projections to so many dimensions, which keep distances to about an
# eighth (Johnson-Lindenstrauss); 65,536 rows then take two seconds of a processor.
_WIDTH = 64


def grid(rows: Tensor, n_sub: int, n_groups: int, generator: torch.Generator) -> Tensor:
    """Where n_sub**2 rows (n_sub**2, d) go: (n_sub, n_sub) indices, [line, place].

    The lines are dealt out to n_groups groups, as lines_of says. In a group the rows of one place
    are alike, one row a line; a group of a single line has a place for every row of its own. Like
    rows also stand at the same place of different groups, so every group has some of each kind.

    The order of likeness is that of a tree of balanced two-means: each cut has halves of exactly
    their sizes, and no list of distances is held, which for a million rows would be too long. Lines
    are cut likewise out of what the rows of a place are beside their mean, by directions that all
    places of the group share.
    """
    assert len(rows) == n_sub**2, (len(rows), n_sub)
    if rows.shape[1] > _WIDTH:
        rows = rows @ torch.randn(rows.shape[1], _WIDTH, generator=generator).to(rows)
    n_leaves = min(len(rows), n_sub * n_groups)
    ordered = _bisected(rows, torch.arange(len(rows)).unsqueeze(0), n_leaves, generator)[0]
    dealt = ordered.view(n_sub, n_sub)  # a line of these is one place, of all groups
    result = torch.empty(n_sub, n_sub, dtype=torch.long)
    for lines in split_lines(n_sub, n_groups):
        blocks = dealt[:, lines]
        beside = torch.zeros_like(rows)
        beside[blocks] = rows[blocks] - rows[blocks].mean(1, keepdim=True)
        result[lines] = _bisected(beside, blocks, blocks.shape[1], generator).t()
    return result


def split_lines(n_sub: int, n_groups: int) -> list[slice]:
    """Lines of each group: as many each as can be, in order; n_groups at most n_sub."""
    bounds = [g * n_sub // n_groups for g in range(n_groups + 1)]
    return [slice(a, b) for a, b in pairwise(bounds)]


def _bisected(rows: Tensor, sets: Tensor, parts: int, generator: torch.Generator) -> Tensor:
    """Indices sets (G, m), reordered in each set so that its `parts` parts are alike.

    All sets are cut along the same directions, each into the same sizes.
    """
    if parts == 1:
        return sets
    cut = sets.shape[1] * (parts // 2) // parts
    ordered = sets.gather(1, _along_two_means(rows[sets], cut, generator))
    low, high = ordered[:, :cut], ordered[:, cut:]
    return torch.cat(
        [
            _bisected(rows, low, parts // 2, generator),
            _bisected(rows, high, parts - parts // 2, generator),
        ],
        dim=1,
    )


def _along_two_means(points: Tensor, cut: int, generator: torch.Generator) -> Tensor:
    """Order (G, m) of points (G, m, d) along the line between two means over all sets: that of
    the first `cut` in this order, and that of the others.
    """
    centred = points - points.mean(1, keepdim=True)
    pooled = centred.flatten(0, 1)
    direction = torch.randn(points.shape[-1], generator=generator).to(points)
    for _ in range(_ROUNDS):  # towards the direction of the largest spread, where to begin
        direction = pooled.t() @ (pooled @ direction)
        direction = direction / direction.norm().clamp_min(torch.finfo(direction.dtype).tiny)
    for _ in range(_ROUNDS):
        order = (centred @ direction).argsort(dim=1, stable=True)
        first = centred.gather(1, order[:, :cut, None].expand(-1, -1, points.shape[-1]))
        direction = -first.mean((0, 1))  # the others' mean is opposite
    return (centred @ direction).argsort(dim=1, stable=True)
