"""Flags of the minimum of a curve: faults that it may have."""

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.isoflop.methods import Method
from analysis.isoflop.shape import FittedShape

MIN_POINTS = 4  # three determine a curve and leave no residual
_ROUNDING = 1e-6  # nats: less is that of a grid of exponents
_OUTLIER = 0.01  # chance of calling a good point one, over all the points of a curve


class Flag(StrEnum):
    """A kind of warning about a curve's minimum."""

    FEW_POINTS = "few points"
    WRONG_CURVATURE = "wrong curvature"
    WEAK_CURVATURE = "weak curvature"
    WIDE = "wide interval"
    OUTSIDE = "outside the range"
    EDGE = "best at an edge"
    OFF_CENTRE = "off-centre"
    OUTLIER = "outlier"
    MISFIT = "misfit"
    LACK_OF_FIT = "lack of fit"
    SKEWED = "skewed"
    SHARED = "shared error"


def check_minimum(
    u: Array,
    losses: Array,
    shape: FittedShape,
    u_opt: float,
    method: Method,
    u_interval: tuple[float, float],
    found_off: Sequence[tuple[Flag, str]] = (),
) -> list[tuple[Flag, str]]:
    """Every flag that the curve earns, with its reason in words.

    u_interval: 95 %, of u_opt; infinite where the curvature is not significantly different from 0,
    nan if the scatter is unknown. found_off: what was found of its points beside the noise.
    """
    found = []
    n = len(u)
    name = "parabola" if shape.is_parabola else "curve"
    if n < MIN_POINTS:
        found.append((Flag.FEW_POINTS, f"{n} sizes: no residual to judge the {name} by"))
    if method != "akima" and not shape.a > 0:
        text = f"the {name} opens downwards: no minimum"
        return [*found, (Flag.WRONG_CURVATURE, text)]
    best = int(losses.argmin())
    inside = bool(u[0] <= u_opt <= u[-1])
    if not inside:
        found.append((Flag.OUTSIDE, "the minimum lies outside the sizes tried"))
    if best in (0, n - 1):
        end = "smallest" if best == 0 else "largest"
        found.append((Flag.EDGE, f"the {end} size is the best: try beyond it"))
    elif inside:
        below, above = int((u < u_opt).sum()), int((u > u_opt).sum())
        if min(below, above) < 2 and n >= MIN_POINTS:
            side = "smaller" if below < above else "larger"
            found.append((Flag.OFF_CENTRE, f"one size only is {side} than the minimum"))
    if np.isinf(u_interval).any():
        text = "the curvature is not significantly different from 0: the minimum may be anywhere"
        found.append((Flag.WEAK_CURVATURE, text))
    elif inside and (u_interval[0] < u[0] or u_interval[1] > u[-1]):
        text = "the 95 % interval of the minimum reaches beyond the sizes tried"
        found.append((Flag.WIDE, text))
    found += found_off
    outlier = _outlier(shape) if n >= 6 and method == "parabola" else None
    if outlier is not None:
        size = np.exp(u[outlier])
        off = shape.residuals[outlier]
        found.append((Flag.OUTLIER, f"the run at size {size:.4g} is {off:+.3f} nats off the rest"))
    return found


def _outlier(shape: FittedShape) -> int | None:
    """Point that the others' curve does not expect, by its deleted studentised residual."""
    r, h = shape.residuals, shape.leverage
    dof = len(r) - 4
    rest = (r @ r) * (1 - h) - r**2  # the others' squares, times 1 - h
    if r @ r < len(r) * _ROUNDING**2:
        return None
    t = np.abs(r) * np.sqrt(dof / np.maximum(rest, 1e-300))
    worst = int(t.argmax())
    return worst if t[worst] > stats.t.ppf(1 - _OUTLIER / (2 * len(r)), dof) else None
