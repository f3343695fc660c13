"""Flags of the best rate of a cell: faults that it may have."""

import numpy as np

from analysis.fitting.intervals import Array
from analysis.isoflop.flags import MIN_POINTS, Flag
from analysis.isoflop.shape import Shape


def check_rates(
    u: Array,
    losses: Array,
    diverged: Array,
    shape: Shape,
    u_opt: float,
    u_interval: tuple[float, float],
) -> list[tuple[Flag, str]]:
    """Every flag that the cell earns, with its reason in words.

    u: ln of the rates tried, in order; diverged: the rates that did, in order; u_opt, u_interval:
    ln of the best and its 95 % interval, infinite where the curvature is not significantly
    different from 0 and nan if the scatter is unknown.
    """
    found = []
    n, best = len(u), int(losses.argmin())
    name = "parabola" if shape.is_parabola else "curve"
    if n < MIN_POINTS:
        found.append((Flag.FEW_POINTS, f"{n} rates: no residual to judge the {name} by"))
    if not shape.a > 0:
        text = f"the {name} opens downwards: no best rate"
        return [*found, (Flag.WRONG_CURVATURE, text)]
    inside = bool(u[0] <= u_opt <= u[-1])
    if not inside:
        found.append((Flag.OUTSIDE, "the best rate is outside of those tried"))
    higher = diverged[diverged > np.exp(u[-1])]
    if best == 0:
        found.append((Flag.EDGE, "the smallest rate is the best: try smaller ones"))
    elif best == n - 1 and len(higher):
        text = f"the best rate is the largest below {higher[0]:.3g}, which diverged: try between"
        found.append((Flag.EDGE, text))
    elif best == n - 1:
        found.append((Flag.EDGE, "the largest rate is the best: try larger ones"))
    if np.isinf(u_interval).any():
        text = "the curvature is not significantly different from 0: the best may be any rate"
        found.append((Flag.WEAK_CURVATURE, text))
    elif inside and (u_interval[0] < u[0] or u_interval[1] > u[-1]):
        text = "the 95 % interval of the best rate reaches beyond the rates tried"
        found.append((Flag.WIDE, text))
    return found
