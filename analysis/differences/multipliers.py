"""Compute multipliers budget by budget: the compute that the baseline needs for a model's loss.

The baseline's losses are joined by straight lines in ln C, so that no law and no asymptote is taken
for granted. Beyond its budgets the nearest line goes on.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import stats

from analysis import numbers
from analysis.comparison import Comparison, Table
from analysis.differences.models import Differences, ModelMean, SeedNoise
from analysis.fitting.intervals import Estimate
from analysis.fitting.status import FitError


@dataclass(frozen=True, kw_only=True, repr=False)
class BudgetMultipliers(Comparison):
    """How many times a budget the baseline needs for the loss that a model has there.

    factors: budget in FLOPs -> model -> factor with its interval at `level` (above 1: the model is
    better). The interval is of the noise over seeds, of the model's loss and of the baseline's at
    both ends of the line: Student's t of ln(factor), with Satterthwaite's degrees of freedom.
    """

    baseline: str
    level: float
    factors: Mapping[float, Mapping[str, Estimate]]
    warnings: tuple[str, ...]

    def tables(self) -> list[Table]:
        rows = [
            _Factor(model, budget, value)
            for budget, found in self.factors.items()
            for model, value in found.items()
        ]
        head = f"compute that {self.baseline} needs for the same loss, in budgets"
        return [
            Table(
                rows=rows,
                columns="model, budget, multiplier=value",
                digits=4,
                head=[f"{head}, {self.level:.0%} intervals"],
            )
        ]


class _Factor(NamedTuple):
    model: str
    budget: float
    value: Estimate


def budget_multipliers(differences: Mapping[float, Differences]) -> BudgetMultipliers:
    """From the means over seeds at two budgets or more, of one baseline; by budget in FLOPs.

    Raises FitError for fewer budgets, or where the baseline's loss does not fall from one budget to
    the next.
    """
    found = [differences[budget] for budget in sorted(differences)]
    if len(found) < 2:
        raise FitError("fewer than two budgets with several seeds: the baseline has no line")
    baseline, level = found[0].baseline, found[0].level
    knots = [_Mean(one, m) for one in found for m in one.means if m.model == baseline]
    for here, there in pairwise(knots):
        if not there.loss < here.loss:
            between = f"{numbers.flops(here.at.budget)} to {numbers.flops(there.at.budget)} FLOPs"
            raise FitError(f"the loss of {baseline} does not fall from {between}")
    factors: dict[float, dict[str, Estimate]] = {}
    warnings = []
    for one in found:
        others = [m for m in one.means if m.model != baseline]
        factors[one.budget] = {m.model: _factor(_Mean(one, m), knots, level) for m in others}
        outside = [m.model for m in others if not knots[-1].loss <= m.loss <= knots[0].loss]
        if outside:
            warnings.append(
                f"at C={numbers.flops(one.budget)} the line of {baseline} is continued beyond its "
                f"budgets for {', '.join(outside)}"
            )
    return BudgetMultipliers(
        baseline=baseline, level=level, factors=factors, warnings=tuple(warnings)
    )


class _Mean(NamedTuple):
    """A model's mean loss, and the comparison at the budget that it is of."""

    at: Differences
    of: ModelMean

    @property
    def loss(self) -> float:
        return self.of.loss


def find_line(losses: Sequence[float], loss: float) -> int:
    """Which of the lines between knots of falling losses has this one; beyond them the nearest."""
    return sum(knot >= loss for knot in losses[1:-1])


def _factor(mean: _Mean, knots: list[_Mean], level: float) -> Estimate:
    """By the delta method, on the scale of ln(factor)."""
    i = find_line([k.loss for k in knots], mean.loss)
    a, b = knots[i], knots[i + 1]
    slope = (np.log(b.at.budget) - np.log(a.at.budget)) / (b.loss - a.loss)
    way = (mean.loss - a.loss) / (b.loss - a.loss)
    log = np.log(a.at.budget) + (mean.loss - a.loss) * slope - np.log(mean.at.budget)
    shares: dict[SeedNoise, float] = defaultdict(float)  # of the variance, in units of each noise's
    for one, weight in ((mean, 1.0), (a, 1 - way), (b, way)):
        shares[one.at.noise] += (slope * weight) ** 2 / one.of.n_seeds
    parts = {noise: share * noise.sd**2 for noise, share in shares.items()}
    variance = sum(parts.values())
    squares = sum(part**2 / noise.dof for noise, part in parts.items())
    dof = variance**2 / squares if squares else np.inf
    half = stats.t.ppf((1 + level) / 2, dof) * np.sqrt(variance)
    return Estimate(*(float(np.exp(log + sign * half)) for sign in (0, -1, 1)))
