"""How a compute multiplier goes with compute: the slope of ln(multiplier) over ln(compute).

A straight line by least squares through ln(multiplier) at each budget. Multipliers of neighbouring
budgets share ends of the baseline's frontier, and all share the curvature: the slope is a function
of the curves' numbers, so its interval, by profile likelihood, has all of that. Budgets count
alike. Weights by the estimated noise would change from table to table what is estimated, and where
noises have few degrees of freedom they narrow intervals more than the error.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from analysis.contrast.curves import Of, summed
from analysis.contrast.fit import Fit
from analysis.contrast.multipliers import Frontier
from analysis.contrast.pairs import Pair
from analysis.fitting.intervals import Estimate


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Change of ln(multiplier) a factor e of compute, over `budgets` (FLOPs): 0 where the layer
    saves the same share of the baseline's compute at all of them.

    multipliers: budget -> of the baseline's compute, for the layer's loss; beyond: those budgets
    where the baseline's frontier is continued beyond its own, by its last line. The frontier of a
    power law is steeper there than the line at small compute and flatter at large, so a continued
    line makes the slope too low. p: two-sided, of no slope; 1 where the interval has no bound, for
    the frontier may be level.
    """

    name: str
    layer: str
    baseline: str
    budgets: tuple[float, ...]
    multipliers: Mapping[float, float]
    beyond: tuple[float, ...]
    value: Estimate
    p: float


def why_no_slope(fit: Fit, pair: Pair) -> str | None:
    """Why a pair has no slope; None if it has one."""
    if len(pair.budgets) < 2:
        return "one budget"
    why = Frontier(fit.points, fit.design, pair.baseline).why_not(fit.about)
    return None if why is None else f"{pair.baseline}: {why}"


def estimate_slope(fit: Fit, pair: Pair, level: float) -> Slope:
    """Slope of a pair for which why_no_slope finds nothing."""
    about = fit.about
    frontier = Frontier(fit.points, fit.design, pair.baseline)
    logs = [frontier.multiplier(fit.lowest(pair.layer, b), b) for b in pair.budgets]
    found = {b: about.quantity(of) for b, of in zip(pair.budgets, logs, strict=True)}
    one = about.quantity(line_through(logs, pair.budgets))
    bounded = frontier.falls(about, level)
    no_bound = Estimate(one.value, -float("inf"), float("inf"))
    return Slope(
        name=pair.name,
        layer=pair.layer,
        baseline=pair.baseline,
        budgets=pair.budgets,
        multipliers={b: float(np.exp(log.value)) for b, log in found.items()},
        beyond=tuple(b for b, log in found.items() if frontier.is_beyond(about, log, b)),
        value=about.interval(one, level) if bounded else no_bound,
        p=about.chance(one) if bounded else 1.0,
    )


def line_through(logs: list[Of], budgets: tuple[float, ...]) -> Of:
    """Slope of values over ln(budget), by least squares."""
    log_c = np.log(budgets) - np.log(budgets).mean()
    return summed(list(zip((log_c / (log_c @ log_c)).tolist(), logs, strict=True)))
