"""How many more seeds differences need for a half-width: by the noise there is, never by a sign."""

import numpy as np

from analysis.contrast.beside import student
from analysis.contrast.curves import fit_curves
from analysis.contrast.fit import Fit
from analysis.contrast.intervals import half_beside
from analysis.contrast.pairs import Pair
from analysis.contrast.result import Needed

_MOST = 200  # seeds of a size


def seeds_needed(fit: Fit, pair: Pair, target: float, level: float) -> Needed:
    """Fewest seeds to add to each size of a difference's curves for this half-width (nats).

    The noises and their degrees of freedom stay those of the runs there are, as in the first stage
    of Stein's rule (planning/seeds.py). Seeds do not help where the noise is the scatter about
    curves.
    """
    points, fitted, about = fit.points, fit.fitted, fit.about
    cells = [fit.cells.index(cell) for cell in pair.cells]
    own = np.isin(points.of, cells)
    scatter = np.array([noise.source == "scatter" for noise in fitted.noises])[fitted.group]
    quantity = about.quantity(fit.difference(pair))
    per_se = student(quantity.noise.dof, 1 - level)
    rest = half_beside(quantity, 1 - level)
    gradient = quantity.of(fitted.curves.theta)[1]

    def half(more: int) -> float:
        n = np.where(own & ~scatter, points.n / (points.n + more), 1.0)
        covariance = fit_curves(fitted.curves.design, points.losses, fitted.variance * n).covariance
        return float(np.hypot(per_se * np.sqrt(gradient @ covariance @ gradient), rest))

    ends = about.interval(quantity, level)
    half_width = (ends.upper - ends.lower) / 2
    seeds: int | None = 0
    if half_width > target:
        seeds = next((more for more in range(1, _MOST + 1) if half(more) <= target), None)
    runs = int(own.sum()) * (seeds or 0)
    flops = np.array([budget for _, budget in points.cells])[points.of[own]]
    return Needed(
        name=pair.name,
        half_width=half_width,
        seeds=seeds,
        runs=runs,
        flops=float(flops.sum()) * (seeds or 0),
    )
