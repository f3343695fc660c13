"""Intervals of functions of the curves' numbers, by profile likelihood.

The curves are linear in their numbers, so the sum of squares grows as a quadratic form about the
best fit. A value is excluded where the best curves that have it are farther than Student's t from
the best curves of all, in that form: the interval goes from the lowest to the highest value on an
ellipsoid. Degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2, 110-114), for each
class and budget has a noise of its own.
"""

from dataclasses import dataclass

import numpy as np
from scipy import optimize, stats

from analysis.contrast.curves import Of
from analysis.contrast.noise import Fitted
from analysis.fitting.intervals import Estimate

_STEPS, _STILL, _NEAR = 400, 1e-14, 1e-9
_FAR = 40.0  # of Student's t: as far as a chance is looked for


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A function of the curves' numbers. se, dof: by first order, Satterthwaite's."""

    of: Of
    value: float
    se: float
    dof: float


class Ellipsoid:
    """The numbers about the best fit."""

    def __init__(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self._theta = fitted.curves.theta
        self._root = np.linalg.cholesky(fitted.curves.covariance)
        bends = np.unique(fitted.curves.design.bend, axis=0)
        errors = np.sqrt(np.einsum("ki,ij,kj->k", bends, fitted.curves.covariance, bends))
        #: how far the ellipsoid can grow while every curve opens upwards
        self.reach = float((bends @ self._theta / errors).min())

    def quantity(self, of: Of) -> Quantity:
        value, gradient = of(self._theta)
        fitted = self._fitted
        each = (gradient @ fitted.curves.moves) ** 2 * fitted.variance
        parts = np.bincount(fitted.group, weights=each, minlength=len(fitted.noises))
        dof = np.array([noise.dof for noise in fitted.noises])
        total = float(parts.sum())
        squares = float((parts**2 / dof).sum())
        return Quantity(
            of=of,
            value=value,
            se=float(np.sqrt(total)),
            dof=total**2 / squares if squares > 0 else float("inf"),
        )

    def t(self, one: Quantity, level: float) -> float:
        """Student's t of a two-sided interval."""
        return float(stats.t.ppf((1 + level) / 2, one.dof))

    def interval(self, one: Quantity, level: float) -> Estimate:
        """Unbounded where a curve of no curvature is not excluded."""
        t = self.t(one, level)
        return Estimate(one.value, self.extreme(one, -t), self.extreme(one, t))

    def extreme(self, one: Quantity, t: float) -> float:
        """The highest value at a distance t, or the lowest at -t.

        By steps along the gradient, which is pulled back to where it was if a step finds no better
        value: on the ellipsoid that changes no value, and makes the steps shorter.
        """
        side, far = float(np.sign(t)), abs(t)
        if far >= self.reach:
            return side * float("inf")
        z = np.zeros_like(self._theta)
        best, pull = one.value, 0.0
        gradient = one.of(self._theta)[1] @ self._root * side
        for _ in range(_STEPS):
            step = gradient + pull * z
            length = float(np.linalg.norm(step))
            if not length > 0:
                break
            tried = far * step / length
            value, by = one.of(self._theta + self._root @ tried)
            if (value - best) * side > 0 or not z.any():
                still = abs(value - best) <= _STILL * max(abs(best), 1.0) and bool(z.any())
                z, best, gradient = tried, value, by @ self._root * side
                if still:
                    break
            elif float(np.abs(tried - z).max()) <= _NEAR * far:
                break
            else:
                pull = 2 * pull + float(np.linalg.norm(gradient)) / far
        return best

    def t_of(self, one: Quantity, value: float) -> float:
        """How many t the quantity is above a value: below 0 if it is below it."""
        side = -1.0 if one.value > value else 1.0
        most = min(_FAR, self.reach * (1 - 1e-9))

        def missing(t: float) -> float:
            return (self.extreme(one, side * t) - value) * side

        if one.value == value:
            return 0.0
        if missing(most) < 0:
            return -side * most
        return -side * float(optimize.brentq(missing, 0.0, most, xtol=1e-10))

    def chance(self, one: Quantity, value: float = 0.0) -> float:
        """Two-sided, of an estimate so far from this value."""
        return float(2 * stats.t.sf(abs(self.t_of(one, value)), one.dof))

    def chance_beyond(self, one: Quantity, margin: float) -> float:
        """The chance of an estimate so far within -margin to margin if the truth is not: two
        one-sided tests (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15,
        657-680).
        """
        above, below = self.t_of(one, -margin), -self.t_of(one, margin)
        return float(stats.t.sf(min(above, below), one.dof))
