"""Distribution of a sum of weighted squares of normal draws."""

import numpy as np
from scipy import integrate

from analysis.fitting.intervals import Array

_NOTHING = 1e-10  # of the largest weight: rounding
_ERROR = 1e-6  # of a probability
_PIECES = 400  # of the integral


def chance_above_zero(weights: Array) -> float:
    """P(sum of weights z^2 > 0) for independent standard normal z: weights (n,) of both signs.

    By the integral of Imhof 1961 (Biometrika 48, 419), to 1e-6. For the chance of a ratio
    z'Kz / z'z above q, the weights are the eigenvalues of K less q.
    """
    largest = float(np.abs(weights).max(initial=0.0))
    if largest == 0:
        return 0.0
    kept = weights[np.abs(weights) > _NOTHING * largest] / largest

    def integrand(u: float) -> float:
        angle = 0.5 * float(np.arctan(kept * u).sum())
        return float(np.sin(angle) / u * np.exp(-0.25 * np.log1p((kept * u) ** 2).sum()))

    value, _ = integrate.quad(integrand, 0, np.inf, limit=_PIECES, epsabs=_ERROR)
    return float(np.clip(0.5 + value / np.pi, 0.0, 1.0))
