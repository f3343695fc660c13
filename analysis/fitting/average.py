"""Predictions of several laws that the runs do not exclude, averaged by their weights.

The interval of the average holds those of all laws that are left, as that of `both` laws of loss
curves does. Beyond the runs laws are apart by more than their own errors, and the runs can prefer a
wrong one that has fewer parameters. A mixture of the laws' distributions (Turek and Fletcher 2012,
doi:10.1016/j.csda.2012.03.002) has the truth in a tail then, and holds it too seldom, in theory too
(Kabaila 2014, arXiv:1404.6855). A bootstrap that chooses a law in each draw would need a fit
of every law to every draw.
"""

from collections.abc import Sequence

import numpy as np
from scipy import optimize, special

from analysis.fitting.intervals import Array, Prediction

EXCLUDED = 0.01  # the share of the weight of all that are excluded


def akaike(squares: float, n: int, n_params: int) -> float:
    """AICc of a least-squares fit, the variance counted as a parameter; inf if n is too small."""
    return n * float(np.log(max(squares, 1e-300) / n)) + _penalty(n, n_params)


def akaike_of_huber(objective: float, delta: float, n: int, n_params: int) -> float:
    """AICc of a fit of the summed Huber loss with this bound, comparable at one bound.

    The loss is that of residuals whose density is exp(-loss / s) / Z(s), Huber's, normal up to
    delta and exponential beyond; s is fitted too, and counts as a parameter. An infinite delta is
    least squares, to which a large one tends.
    """
    if np.isinf(delta):
        return akaike(2 * objective, n, n_params)
    objective = max(objective, 1e-300)

    def deviance(log_s: float) -> float:
        s = np.exp(log_s)
        inner = np.sqrt(2 * np.pi * s) * special.erf(delta / np.sqrt(2 * s))
        outer = 2 * s / delta * np.exp(-(delta**2) / (2 * s))
        return float(2 * (objective / s + n * np.log(inner + outer)))

    # At most as of squares alone, and at least as of absolute values alone
    guess = np.log(2 * objective / n)
    found = optimize.minimize_scalar(deviance, bounds=(guess - 5, guess + 5), method="bounded")
    return float(found.fun) - n * (1 + np.log(2 * np.pi)) + _penalty(n, n_params)


def _penalty(n: int, n_params: int) -> float:
    k = n_params + 1
    return 2 * k + 2 * k * (k + 1) / (n - k - 1) if n > k + 1 else float("inf")


def akaike_weights(aicc: Sequence[float]) -> Array:
    """exp(-AICc / 2) as shares of their sum (Burnham and Anderson 2002); 0 where it is infinite.

    nan where all are.
    """
    values = np.array(aicc, dtype=np.float64)
    if not np.isfinite(values).any():
        return np.full(len(values), np.nan)
    shares = np.exp(-(values - values.min()) / 2)
    return np.asarray(shares / shares.sum())


def possible(weights: Array) -> np.ndarray:
    """Which are not excluded (n,): the fewest that have all but EXCLUDED of the weight."""
    order = np.argsort(-weights, kind="stable")
    before = np.cumsum(weights[order]) - weights[order]
    kept = np.zeros(len(weights), dtype=bool)
    kept[order] = before < 1 - EXCLUDED
    return kept


def averaged(predicted: Sequence[Prediction], weights: Sequence[float], level: float) -> Prediction:
    """Weighted mean of what is predicted, with the interval that holds those of all."""
    mean = np.average([one.value for one in predicted], axis=0, weights=weights)
    low = np.min([one.lower for one in predicted], axis=0)
    high = np.max([one.upper for one in predicted], axis=0)
    return Prediction(mean, low, high, level)
