"""Compute multipliers by the joined lowest losses of any layer: straight lines in ln C."""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from analysis.contrast.curves import Design, Of, summed
from analysis.contrast.intervals import Ellipsoid, Quantity
from analysis.contrast.points import Points
from analysis.differences.multipliers import find_line
from analysis.fitting.intervals import Array, Estimate


class Frontier:
    """Joined frontier of a layer: its lowest losses, with straight lines in ln C between them.

    Beyond its budgets the nearest line goes on, as budget_multipliers has it of means.
    """

    def __init__(self, points: Points, design: Design, layer: str) -> None:
        cells = [(budget, i) for i, (name, budget) in enumerate(points.cells) if name == layer]
        self.log_c = np.log([budget for budget, _ in cells])
        self.knots: Sequence[Of] = [design.minimum(i) for _, i in cells]

    def why_not(self, about: Ellipsoid) -> str | None:
        """Why there is no frontier; None if there is one."""
        if len(self.knots) < 2:
            return "one budget"
        losses = [about.quantity(knot).value for knot in self.knots]
        return None if all(b < a for a, b in pairwise(losses)) else "losses do not fall"

    def multiplier(self, loss: Of, budget: float) -> Of:
        """ln of how many times a budget (FLOPs) this layer needs for a loss."""

        def of(theta: Array) -> tuple[float, Array]:
            value, by = loss(theta)
            knots = [knot(theta) for knot in self.knots]
            i = find_line([knot for knot, _ in knots], value)
            (low, by_low), (high, by_high) = knots[i : i + 2]
            run = self.log_c[i + 1] - self.log_c[i]
            slope = run / (high - low)
            way = (value - low) / (high - low)
            moved = slope * (by - (1 - way) * by_low - way * by_high)
            return float(self.log_c[i] + way * run - np.log(budget)), moved

        return of

    def is_beyond(self, about: Ellipsoid, one: Quantity, budget: float) -> bool:
        """Whether the compute for a loss is outside of the budgets; one: ln of the multiplier."""
        at = one.value + np.log(budget)
        return bool(at < self.log_c[0] - 1e-9 or at > self.log_c[-1] + 1e-9)

    def falls(self, about: Ellipsoid, level: float) -> bool:
        """Whether losses fall all along, each step by its interval of this level."""
        steps = [about.quantity(summed([(1.0, a), (-1.0, b)])) for a, b in pairwise(self.knots)]
        return all(about.end(step, 1 - level, -1) > 0 for step in steps)


def estimate_multiplier(about: Ellipsoid, frontier: Frontier, of: Of, level: float) -> Estimate:
    """With its interval; unbounded where the frontier may be level."""
    one = about.quantity(of)
    if not frontier.falls(about, level):
        return Estimate(float(np.exp(one.value)), 0.0, float("inf"))
    found = about.interval(one, level)
    with np.errstate(over="ignore"):
        return Estimate(*(float(np.exp(end)) for end in found))
