"""From the noise of a pair to half-widths, and back: numbers of seeds by Student's t.

sd is everywhere the standard deviation of the difference of a pair in nats/token.
"""

import numpy as np
from scipy import optimize, stats

from analysis.fitting.intervals import t_quantile

_MOST_SEEDS = 100_000


def half_width(sd: float, dof: int, n_pairs: int, level: float) -> float:
    """Half the width of the interval of a mean in nats; nan without degrees of freedom."""
    return t_quantile(dof, level) * sd / float(np.sqrt(n_pairs))


def detectable(sd: float, dof: int, n_pairs: int, power: float, alpha: float) -> float:
    """Smallest true difference, in nats, that a two-sided t test at alpha finds significant
    with this power: by the noncentral t distribution. nan without degrees of freedom.
    """
    if dof < 1:
        return float("nan")
    t = float(stats.t.ppf(1 - alpha / 2, dof))

    def missing(away: float) -> float:
        wrong_side = stats.nct.cdf(-t, dof, away)  # scipy has nan for it where it is below 1e-15
        return power - float(stats.nct.sf(t, dof, away) + np.nan_to_num(wrong_side))

    top = t + 10.0
    while missing(top) > 0:
        top *= 2
    return float(optimize.brentq(missing, 0.0, top, xtol=1e-9)) * sd / float(np.sqrt(n_pairs))


def seeds_planned(sd: float, n_free: int, target: float, level: float) -> int | None:
    """Fewest pairs, from 2 on, whose half-width is at most `target` nats where every pair is in
    the noise: k of them have (k - 1) n_free degrees of freedom. None above 100,000.
    """
    for k in range(2, 1_000):
        if half_width(sd, (k - 1) * n_free, k, level) <= target:
            return k
    normal = float(stats.norm.ppf((1 + level) / 2))
    return _squared(normal * sd / target)  # t is the normal distribution's by then


def seeds_by_stein(sd: float, dof: int, target: float, level: float) -> int | None:
    """Pairs of Stein's two-stage rule: the fewest n with t sd / sqrt(n) <= target, t and sd of
    the first stage alone. None above 100,000, or without degrees of freedom.

    The noise of the first stage is independent of all means. So the interval of n pairs by this t
    and sd holds the truth with `level` at least, however n came out (Stein 1945, Annals of
    Mathematical Statistics 16, 243-258).
    """
    t = t_quantile(dof, level)
    n = _squared(t * sd / target * (1 - 5e-13))
    return None if n is None else max(n, 1)


def _squared(root: float) -> int | None:
    """Least whole number that is its square or more; None above 100,000, or of nan."""
    # Not the square itself first, which of a tiny half-width is no float
    return int(np.ceil(root**2)) if root <= np.sqrt(_MOST_SEEDS) else None
