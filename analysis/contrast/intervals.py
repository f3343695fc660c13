"""Intervals of functions of the curves' numbers, by profile likelihood.

The curves are linear in their numbers, so the sum of squares grows as a quadratic form about the
best fit. A value is excluded where the best curves that have it are farther than Student's t from
the best curves of all, in that form: the interval goes from the lowest to the highest value on an
ellipsoid. Degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2, 110-114), for each
class and budget has a noise of its own.

Errors beside the noise (beside.py) are independent of it and of each other. Each has a half-width
by its own Student's t, and an end of the interval is where the root of the sum of their squares
reaches (Zou and Donner 2008, Statistics in Medicine 27, 1693-1702). So the noise keeps its own
profile, however much larger the others are.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import optimize

from analysis.contrast.beside import Beside, Error, student
from analysis.contrast.curves import Of
from analysis.contrast.noise import Fitted
from analysis.fitting.intervals import Estimate

_STEPS, _STILL, _NEAR = 400, 1e-14, 1e-9
_LEAST = 1e-15  # as small as a chance is looked for
_FAR = 1e9  # nats: an end that has no bound


@dataclass(frozen=True, kw_only=True)
class Quantity:
    """A function of the curves' numbers. noise: by first order, with Satterthwaite's degrees of
    freedom; beside: the other errors.
    """

    of: Of
    value: float
    noise: Error
    beside: tuple[Error, ...]

    @property
    def errors(self) -> tuple[Error, ...]:
        return (self.noise, *self.beside)

    @property
    def se(self) -> float:
        return float(np.sqrt(sum(one.se**2 for one in self.errors)))

    @property
    def shares(self) -> dict[str, float]:
        """Shares of the variance, by source."""
        total = self.se**2
        return {one.name: one.se**2 / total if total > 0 else float("nan") for one in self.errors}


class Ellipsoid:
    """Numbers about the best fit. beside: errors that the noise has not."""

    def __init__(self, fitted: Fitted, beside: Sequence[Beside] = ()) -> None:
        self._fitted, self.beside = fitted, tuple(beside)
        self._theta = fitted.curves.theta
        self._root = np.linalg.cholesky(fitted.curves.covariance)
        bends = np.unique(fitted.curves.design.bend, axis=0)
        errors = np.sqrt(np.einsum("ki,ij,kj->k", bends, fitted.curves.covariance, bends))
        #: how far the ellipsoid can grow while every curve opens upwards
        self.reach = float((bends @ self._theta / errors).min())

    def quantity(self, of: Of) -> Quantity:
        value, gradient = of(self._theta)
        fitted = self._fitted
        by = gradient @ fitted.curves.moves
        each = by**2 * fitted.variance
        parts = np.bincount(fitted.group, weights=each, minlength=len(fitted.noises))
        dof = np.array([noise.dof for noise in fitted.noises])
        total = float(parts.sum())
        squares = float((parts**2 / dof).sum())
        dof_of_all = total**2 / squares if squares > 0 else float("inf")
        return Quantity(
            of=of,
            value=value,
            noise=Error("noise", float(np.sqrt(total)), dof_of_all),
            beside=tuple(source.error(by) for source in self.beside),
        )

    def interval(self, one: Quantity, level: float) -> Estimate:
        """Unbounded where a curve of no curvature is not excluded."""
        return Estimate(one.value, *(self.end(one, 1 - level, side) for side in (-1, 1)))

    def end(self, one: Quantity, p: float, side: int) -> float:
        """That of an interval which misses by chance p, the lower one of side -1."""
        own = self.extreme(one, side * student(one.noise.dof, p))
        if not one.beside:
            return own
        return one.value + side * float(np.hypot(own - one.value, half_beside(one, p)))

    def extreme(self, one: Quantity, t: float) -> float:
        """Highest value at a distance t, or the lowest at -t.

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

    def chance(self, one: Quantity, value: float = 0.0) -> float:
        """Two-sided, of an estimate so far from this value: an interval that misses by it ends
        there.
        """
        side = -1 if one.value > value else 1

        def missing(log_p: float) -> float:
            end = self.end(one, float(np.exp(log_p)), side)
            return float(np.clip((end - value) * side, -_FAR, _FAR))

        if one.value == value:
            return 1.0
        least = float(np.log(_LEAST))
        if missing(least) < 0:
            return _LEAST
        return float(np.exp(optimize.brentq(missing, least, 0.0, xtol=1e-10)))

    def chance_beyond(self, one: Quantity, margin: float) -> float:
        """Chance of an estimate so far within -margin to margin if the truth is not: two
        one-sided tests (Schuirmann 1987, Journal of Pharmacokinetics and Biopharmaceutics 15,
        657-680).
        """
        halves = [self.chance(one, end) / 2 for end in (-margin, margin)]
        within = (one.value > -margin, one.value < margin)
        return max(half if own else 1 - half for half, own in zip(halves, within, strict=True))


def half_beside(one: Quantity, p: float) -> float:
    """Half-width by all errors but the noise."""
    return float(np.sqrt(sum(error.half(p) ** 2 for error in one.beside)))
