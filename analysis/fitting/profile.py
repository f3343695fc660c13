"""Profile likelihood intervals of functions of the parameters of a least-squares fit.

A value of a function is excluded where the best fit that has it, over all other parameters, is
significantly worse than the best fit: S(value) > S (1 + t^2 / dof), S the sum of squares and t of
Student's t (Bates and Watts 1988, Nonlinear Regression Analysis, section 6.1). Unlike a standard
error, and unlike a bootstrap's percentiles, it follows the valley of parameters that trade off, and
it is the same for a parameter and its logarithm.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Array, t_quantile
from analysis.fitting.least_squares import Model, minimise
from analysis.fitting.text import pluralize

_ROUNDS = 15
_CLOSE = 0.01  # of Student's t: near enough to interpolate
_TURN = 4.0  # how much further a round goes that has found no end
_GUARD = 0.1  # of what is between two values: the nearest to one of them that is tried
_STILL = 1e-3  # of a step: less is no move
_STIFF = 40.0  # how many times Student's t a pull is worth, roughly
_EXACT = 1e-9  # scatter that is rounding
_FLAT = 1e-7  # of the largest singular value of a Jacobian: smaller ones count as this
_STEPS = 200


@dataclass(frozen=True, kw_only=True)
class LeastSquares:
    """A fit of the points target (n,) by model in a box lower..upper (p,): its minimum theta (p,)
    with so many degrees of freedom.
    """

    model: Model
    target: Array
    lower: Array
    upper: Array
    theta: Array
    dof: int

    def interval(self, of: Model, level: float) -> tuple[Array, Array]:
        """Ends of the intervals of K functions, (K,) each; nan without a degree of freedom.

        of: theta (S, p) -> values (S, K) and derivatives (S, K, p). An end that no edge of the box
        excludes is the farthest value that was found in it.
        """
        check_level(level)
        value, jacobian = of(self.theta[None])
        K = value.shape[1]
        if self.dof <= 0:
            return np.full(K, np.nan), np.full(K, np.nan)
        t = t_quantile(self.dof, level)
        off = self.model(self.theta[None])[0][0] - self.target
        least = float(off @ off)
        sd = np.sqrt(least / self.dof)
        se = np.maximum(sd * self._lengths(jacobian[0]), np.finfo(float).tiny)
        if sd < _EXACT:
            return value[0], value[0]
        which, side = np.tile(np.arange(K), 2), np.repeat([-1.0, 1.0], K)
        centre = value[0][which]
        # What a function can change by in the box: where it hardly moves the points, its standard
        # error is more
        room = np.abs(jacobian[0]) @ (self.upper - self.lower)
        step = np.minimum(t * se, room)[which]
        theta = np.repeat(self.theta[None], 2 * K, axis=0)
        # t and value of the nearest that was found on either side of the end
        inner, below = np.zeros(2 * K), centre.copy()
        outer, above = np.full(2 * K, np.inf), np.full(2 * K, np.nan)
        ends, left = np.full(2 * K, np.nan), np.flatnonzero(step > 0)
        for _ in range(_ROUNDS):
            if not len(left):
                break
            k = which[left]
            theta[left] = self._pulled(
                of, theta[left], k, centre[left] + side[left] * step[left], sd / step[left]
            )
            found = np.take_along_axis(of(theta[left])[0], k[:, None], axis=1)[:, 0]
            squares = ((self.model(theta[left])[0] - self.target) ** 2).sum(axis=1)
            reached = np.sqrt(np.maximum(squares - least, 0.0)) / sd
            gone = side[left] * (found - below[left])
            is_in = (reached <= t) & (gone >= 0)
            is_out = (reached > t) & (reached < outer[left])
            inner[left[is_in]], below[left[is_in]] = reached[is_in], found[is_in]
            outer[left[is_out]], above[left[is_out]] = reached[is_out], found[is_out]
            at_edge = is_in & (gone < _STILL * step[left])
            close = np.abs(reached - t) <= _CLOSE * t
            there = left[close]
            ends[there] = centre[there] + (found[close] - centre[there]) * t / reached[close]
            left = left[~close & ~at_edge]
            share = np.clip(_share(inner, outer, t), _GUARD, 1 - _GUARD)[left]
            between = np.abs(below[left] + share * (above[left] - below[left]) - centre[left])
            step[left] = np.where(np.isfinite(outer[left]), between, _TURN * step[left])
        between = below + _share(inner, outer, t) * np.nan_to_num(above - below)
        ends = np.where(np.isnan(ends), between, ends)
        return ends[:K], ends[K:]

    def _lengths(self, gradient: Array) -> Array:
        """Standard errors of functions with this gradient (K, p), for points of noise 1."""
        free = self.lower < self.upper
        jacobian = self.model(self.theta[None])[1][0][:, free]
        scale = np.linalg.norm(jacobian, axis=0)
        scale = np.where(scale > 0, scale, 1.0)
        _, values, axes = np.linalg.svd(jacobian / scale, full_matrices=False)
        values = np.maximum(values, _FLAT * values[0])
        return np.linalg.norm(gradient[:, free] / scale @ axes.T / values, axis=1)

    def _pulled(self, of: Model, starts: Array, k: np.ndarray, to: Array, unit: Array) -> Array:
        """Best fits (S, p) with function k (S,) near a value, (S,).

        Near by one more point there, of a weight in units (S,). So it is the best fit at the value
        that it has, whatever the weight.
        """
        n, p, weight = len(self.target), starts.shape[1], _STIFF * unit

        def model(theta: Array) -> tuple[Array, Array]:
            row = theta[:, p].astype(int)  # moves no point, so it stays what it is
            value, jacobian = self.model(theta[:, :p])
            g, by = (part[np.arange(len(row)), k[row]] for part in of(theta[:, :p]))
            full = np.zeros((len(row), n + 1, p + 1))
            full[:, :n, :p] = jacobian
            full[:, n, :p] = by * weight[row][:, None]
            return np.column_stack([value, g * weight[row]]), full

        found = minimise(
            model,
            np.column_stack([np.broadcast_to(self.target, (len(k), n)), to * weight]),
            np.column_stack([starts, np.arange(len(k))]),
            lower=np.append(self.lower, 0.0),
            upper=np.append(self.upper, len(k)),
            max_steps=_STEPS,
        )
        return found.theta[:, :p]


def _share(inner: Array, outer: Array, t: float) -> Array:
    """How far from the inner to the outer value a t is, 0 where there is no outer one."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isfinite(outer), (t - inner) / (outer - inner), 0.0)


def differentiated(of: Callable[[Array], Array], step: float = 1e-6) -> Model:
    """Functions theta (S, p) -> (S, K) with their derivatives, by central differences."""

    def model(theta: Array) -> tuple[Array, Array]:
        moves = step * np.eye(theta.shape[1])
        columns = [(of(theta + move) - of(theta - move)) / (2 * step) for move in moves]
        return of(theta), np.stack(columns, axis=-1)

    return model


def likelihood_text(dof: int) -> str:
    """How the intervals were made."""
    return f"profile likelihood by Student's t, {pluralize(dof, 'degree')} of freedom"
