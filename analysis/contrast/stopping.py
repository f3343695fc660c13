"""How many more seeds differences need for a half-width: by the noise there is, never by a sign."""

from dataclasses import dataclass

import numpy as np

from analysis.contrast.curves import Of, fit_curves
from analysis.contrast.intervals import Ellipsoid
from analysis.contrast.noise import Fitted
from analysis.contrast.points import Points
from analysis.contrast.result import Needed

_MOST = 200  # seeds of a size


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A difference, its curves' places among the cells, and its half-width now in nats."""

    name: str
    of: Of
    cells: tuple[int, ...]
    half_width: float


def seeds_needed(
    points: Points, fitted: Fitted, about: Ellipsoid, asked: Asked, target: float, level: float
) -> Needed:
    """The fewest seeds to add to each size of a difference's curves for this half-width (nats).

    The noises and their degrees of freedom stay those of the runs there are, as in the first stage
    of Stein's rule (power/seeds.py). Seeds do not help where the noise is the scatter about curves.
    """
    own = np.isin(points.of, asked.cells)
    scatter = np.array([noise.source == "scatter" for noise in fitted.noises])[fitted.group]
    quantity = about.quantity(asked.of)
    per_se = about.t(quantity, level)
    gradient = quantity.of(fitted.curves.theta)[1]

    def half(more: int) -> float:
        n = np.where(own & ~scatter, points.n / (points.n + more), 1.0)
        covariance = fit_curves(fitted.curves.design, points.losses, fitted.variance * n).covariance
        return per_se * float(np.sqrt(gradient @ covariance @ gradient))

    seeds: int | None = 0
    if asked.half_width > target:
        seeds = next((more for more in range(1, _MOST + 1) if half(more) <= target), None)
    runs = int(own.sum()) * (seeds or 0)
    budgets = np.array([budget for _, budget in points.cells])[points.of[own]]
    return Needed(
        name=asked.name,
        half_width=asked.half_width,
        seeds=seeds,
        runs=runs,
        flops=float(budgets.sum()) * (seeds or 0),
    )
