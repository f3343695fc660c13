"""Whether losses turn at some number of experts, alike for all sizes, where a law goes straight on.

A test for one kind of misfit: a pattern in all variables at once (pattern.py) has many more ways to
be there by chance, and sees it less often.
"""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.pattern import LEAST
from analysis.laws.law import Variables

CHANCE = 0.01  # of a warning about noise alone
_FEWEST = 4  # numbers of experts: two at which losses may turn
_ROUNDING = 1e-6  # of ln L: scatter below it is no noise
_DRAWS = 20_000


def turns_with_experts(at: Variables, off: Array, jacobian: Array, loss: Array) -> str | None:
    """Why a law's trend in E does not describe its runs, in words; None if it does.

    off, jacobian: as of misses_in_a_pattern. Beside the law, its parameters free to first order, a
    further slope of ln L in ln E beyond each number of experts is tried, one at a time. The chance
    is that of the largest reduction of squares by any of them, by draws of noise.
    """
    n, p = jacobian.shape
    x = at.log("E")
    places = np.unique(x)[1:-1]
    scatter = float(np.sqrt(np.mean(off**2)))
    if len(places) < _FEWEST - 2 or n - p < LEAST + len(places) or scatter < _ROUNDING:
        return None
    span, _ = np.linalg.qr(jacobian)
    hinges = np.maximum(x[:, None] - places, 0.0)
    free = hinges - span @ (span.T @ hinges)
    lengths = np.linalg.norm(free, axis=0)
    seen = lengths > 1e-6 * np.linalg.norm(hinges, axis=0)  # the law has such a slope of its own
    if not seen.any():
        return None
    places, free, lengths = places[seen], free[:, seen], lengths[seen]
    left = -(off - span @ (span.T @ off))
    explained = (left @ free / lengths) ** 2
    best = int(explained.argmax())
    chance = _chance(float(explained[best] / (left @ left)), free / lengths, n - p)
    if not chance < CHANCE:
        return None
    slope = float(left @ free[:, best]) / lengths[best] ** 2 * np.log(2) * float(np.mean(loss))
    how = "rise by" if slope > 0 else "fall by"
    return (
        f"losses turn at {np.exp(places[best]):.6g} experts: beyond, they {how} {abs(slope):.2g} "
        f"nats a doubling more than this law says (p={chance:.1g}), so for more experts it may be "
        "off by more than the intervals say"
    )


def _chance(share: float, directions: Array, dof: int) -> float:
    """That noise of dof degrees of freedom has so large a share of its squares, or a larger, in the
    best of some directions (n, k) of length one.
    """
    _, values, axes = np.linalg.svd(directions, full_matrices=False)
    kept = values > 1e-9 * values[0]
    ends = values[kept, None] * axes[kept]  # (rank, k): the directions in their own span
    rng = np.random.default_rng(0)
    within = rng.normal(size=(_DRAWS, int(kept.sum())))
    rest = rng.chisquare(dof - int(kept.sum()), _DRAWS)
    most = ((within @ ends) ** 2).max(axis=1)
    by_chance = most / ((within**2).sum(axis=1) + rest) >= share
    return float((1 + by_chance.sum()) / (1 + _DRAWS))
