"""Many small nonlinear least-squares problems at once: all starts, or all bootstrap draws.

Levenberg-Marquardt on sum_n w_n rho(prediction_n - target_n), rho Huber's or a half square, in a
box. scipy solves one at a time, and its L-BFGS-B stops early on the flat sums of Chinchilla fits
(a sum of 1e-3 in all): 1,000 draws take minutes there and half a second here.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from analysis.fitting.intervals import Array

# theta (S, p) -> predictions (S, n) and their derivatives by theta (S, n, p)
Model = Callable[[Array], tuple[Array, Array]]

_CHUNK = 500_000  # numbers of a Jacobian held at once: a few of it are in a processor's cache
_SOME, _PER_PARAMETER = 300, 15  # points that the way down is of, at least
_STRAIGHT = 10  # steps: a descent that takes more is in a valley
_PROBE = 0.1  # of a step: where its path's bend is measured
_FLAT = 1e-100  # length of a derivative that moves no point
_MOST = 0.75  # of a step's length: what bends it more is another path (their alpha / 2)
_TINY = np.finfo(np.float64).tiny
_HUGE = 1e150  # whose square is still a number


@dataclass(frozen=True, kw_only=True)
class Minima:
    """S local minima. Shapes: theta (S, p), the others (S,), at_bound (S, p).

    gradient: the largest cosine between the residuals and a column of the Jacobian, over the
    parameters that are free to move: 0 at a minimum, whatever the units.
    """

    theta: Array
    value: Array
    gradient: Array
    converged: np.ndarray
    at_bound: np.ndarray

    @property
    def best(self) -> int:
        return int(np.nanargmin(self.value))


def huber(residuals: Array, delta: float) -> Array:
    """r^2/2 up to delta, then linear (Huber 1964); delta infinite: r^2/2."""
    size = np.abs(residuals)
    if np.isinf(delta):
        return 0.5 * size**2
    return np.where(size <= delta, 0.5 * size**2, delta * (size - 0.5 * delta))


def minimise(
    model: Model,
    target: Array,
    starts: Array,
    *,
    lower: Array,
    upper: Array,
    weights: Array | None = None,
    delta: float = np.inf,
    max_steps: int = 500,
    enough: float = 0.0,
) -> Minima:
    """From every start (S, p) downhill to a minimum in the box lower..upper (p,).

    target: (n,), or (S, n) for one a start; weights: the same, e.g. how often a bootstrap drew
    each point. enough: a descent ends where it is nearer to its minimum than this in squared
    standard errors, of all parameters together, by the parabola that the sum is like there; by
    default where the last digits are reached.
    """
    starts = np.clip(np.atleast_2d(starts), lower, upper)
    n_starts, n_points = len(starts), np.shape(target)[-1]
    target = np.broadcast_to(target, (n_starts, n_points))
    weights = np.broadcast_to(1.0 if weights is None else weights, (n_starts, n_points))
    size = max(1, _CHUNK // (n_points * starts.shape[1]))
    parts = [
        _descend(model, target[i], starts[i], lower, upper, weights[i], delta, max_steps, enough)
        for i in (slice(k, k + size) for k in range(0, max(n_starts, 1), size))
    ]
    columns = [np.concatenate(column) for column in zip(*parts, strict=True)]
    theta, value, gradient, converged, at_bound = columns
    return Minima(
        theta=theta, value=value, gradient=gradient, converged=converged, at_bound=at_bound
    )


def some_of(n_points: int, n_params: int) -> np.ndarray:
    """Places of some of many points, for the way down from far: 300 at random, 15 a parameter, or
    all if they are no more. The end of the way is of all.
    """
    n = max(_SOME, _PER_PARAMETER * n_params)
    every = np.arange(n_points)
    return every if n >= n_points else np.sort(np.random.default_rng(0).permutation(every)[:n])


def _descend(
    model: Model,
    target: Array,
    theta: Array,
    lower: Array,
    upper: Array,
    weights: Array,
    delta: float,
    max_steps: int,
    enough: float,
) -> tuple[Array, Array, Array, np.ndarray, np.ndarray]:
    theta = theta.copy()
    n_starts, n_params = theta.shape
    predicted, every = map(np.array, _evaluate(model, theta))  # which a model may share
    residuals = predicted - target
    value = _objective(residuals, weights, delta)
    damping = np.full(n_starts, 1e-3)
    gradient = np.full(n_starts, np.inf)
    at_bound = np.zeros((n_starts, n_params), dtype=bool)
    scale, axes = np.zeros_like(theta), np.zeros((n_starts, n_params, n_params))
    bends, slopes = np.zeros_like(theta), np.zeros_like(theta)
    idle = np.zeros(n_starts, dtype=int)
    active = moved = np.flatnonzero(np.isfinite(value))
    for k in range(max_steps):
        if not len(active):
            break
        # Half of all steps are refused. Then the place is the same, and only the damping is not.
        here, w, r, turned = theta[moved], weights[moved], residuals[moved], every[moved]
        size = np.abs(r)
        if np.isinf(delta):
            slope, bend, reweighted = r, w, w
        else:
            slope = np.clip(r, -delta, delta)
            bend = w * (size <= delta)  # the true curvature of rho: none beyond delta
            reweighted = w * np.minimum(1.0, delta / np.maximum(size, _TINY))
        J = turned.transpose(0, 2, 1)
        lengths = np.sqrt((reweighted[:, None, :] @ J**2)[:, 0])
        if not lengths.all():
            every[moved] = turned = np.where(lengths[:, :, None] > 0, turned, 0.0)
            J = turned.transpose(0, 2, 1)  # whose squares are 0 moves no point
        lengths += _TINY
        g = (turned @ (w * slope)[:, :, None])[:, :, 0]
        hessian = turned @ (J * bend[:, :, None])
        stuck = ((here <= lower) & (g > 0)) | ((here >= upper) & (g < 0))
        at_bound[moved], scale[moved] = stuck, lengths
        length = np.sqrt((reweighted * r**2).sum(axis=1)) + _TINY
        unit = np.maximum(lengths * length[:, None], _TINY)
        gradient[moved] = np.where(stuck, 0.0, np.abs(g) / unit).max(axis=1)
        bends[moved], axes[moved], slopes[moved] = _principal(g, hessian, lengths, stuck)

        step = _damped_step(bends[active], axes[active], slopes[active], damping[active])
        step = np.where(at_bound[active], 0.0, step / scale[active])
        if k >= _STRAIGHT:
            known = weights[active] * (np.abs(residuals[active]) <= delta)
            along = _curved(model, theta[active], step, predicted[active], every[active], known)
            along = np.where(at_bound[active] | (scale[active] < _FLAT), 0.0, along / scale[active])
            along = (axes[active].transpose(0, 2, 1) @ along[:, :, None])[:, :, 0]
            turn = _damped_step(bends[active], axes[active], along, damping[active]) / 2
            long = np.abs(turn).max(axis=1) > _MOST * np.abs(step * scale[active]).max(axis=1)
            turn = np.where(at_bound[active] | long[:, None], 0.0, turn / scale[active])
            step = step + turn
        candidate = np.clip(theta[active] + step, lower, upper)
        new_predicted, new_turned = _evaluate(model, candidate)
        new_residuals = new_predicted - target[active]
        new_value = _objective(new_residuals, weights[active], delta)
        # nan or huge, where a term's own parameter ran off and the term itself is nothing
        steepest = np.maximum(new_turned.max(axis=(1, 2)), -new_turned.min(axis=(1, 2)))
        new_value = np.where(steepest < _HUGE, new_value, np.inf)
        better = new_value < value[active]
        gain = np.where(better, 1 - new_value / np.maximum(value[active], _TINY), 0.0)
        onto = active[better]
        theta[onto], value[onto] = candidate[better], new_value[better]
        predicted[onto], residuals[onto] = new_predicted[better], new_residuals[better]
        every[onto] = new_turned[better]
        damping[active] = np.where(
            better, np.maximum(damping[active] / 10, 1e-12), damping[active] * 10
        )
        idle[active] = np.where(better, np.where(gain < 1e-14, idle[active] + 1, 0), idle[active])

        # Nothing left to gain to the last digits, or no step however small is downhill.
        exact = value[active] <= 1e-30 * weights[active].sum(axis=1)
        halted = (idle[active] >= 3) | (damping[active] > 1e14) | exact
        halted |= at_bound[active].all(axis=1) | (gradient[active] < 1e-10)
        halted |= _left(bends[active], slopes[active]) < enough * value[active] / len(target[0])
        onward = better & ~halted
        active, moved = active[~halted], active[onward]
    # Halting is no proof: a place with a slope and no way down is no minimum. A cosine of 1e-4
    # is a hundredth of a standard error of the parameters from one, for up to 10,000 points.
    converged = (gradient < 1e-4) | (value <= 1e-24 * weights.sum(axis=1))
    return theta, value, gradient, converged, at_bound


def _left(bends: Array, slopes: Array) -> Array:
    """What a full step would gain (S,), if the sum were the parabola that it is like."""
    with np.errstate(over="ignore"):
        return np.asarray((slopes**2 / np.maximum(np.abs(bends), _TINY)).sum(axis=1) / 2)


def _curved(
    model: Model, theta: Array, step: Array, predicted: Array, turned: Array, known: Array
) -> Array:
    """J'K times the second derivative of the predictions along a step, (S, p); known (S, n): K.

    A valley in the sum is a bent path, which a straight step leaves. Half of this, taken by the
    same damped Hessian, turns the step along it (geodesic acceleration: Transtrum and Sethna 2012,
    arXiv:1201.5885).
    """
    slope = (step[:, None] @ turned)[:, 0]
    with np.errstate(all="ignore"):  # a probe may be out of the box
        second = 2 * ((model(theta + _PROBE * step)[0] - predicted) / _PROBE - slope) / _PROBE
        found = (turned @ (known * second)[:, :, None])[:, :, 0]
    return np.where(np.abs(found) < _HUGE, found, 0.0)


def _principal(
    g: Array, hessian: Array, scale: Array, stuck: np.ndarray
) -> tuple[Array, Array, Array]:
    """H's eigenvalues and axes, and g along these, of the parameters that are free to move.

    In units where every column of the Jacobian has length one.
    """
    free = ~stuck
    matrix = hessian / scale[:, :, None] / scale[:, None, :]
    values, vectors = np.linalg.eigh(matrix * (free[:, :, None] & free[:, None, :]))
    along = vectors.transpose(0, 2, 1) @ np.where(free, g / scale, 0.0)[:, :, None]
    return values, vectors, along[:, :, 0]


def _damped_step(values: Array, vectors: Array, along: Array, damping: Array) -> Array:
    """-(|H| + damping)^-1 g, in those units."""
    shrunk = along / (np.abs(values) + damping[:, None])
    return -np.matmul(vectors, shrunk[:, :, None])[:, :, 0]


def _evaluate(model: Model, theta: Array) -> tuple[Array, Array]:
    """Predictions (S, n), and their derivatives (S, p, n)."""
    with np.errstate(over="ignore", invalid="ignore"):  # a step too far is refused by its value
        predicted, jacobian = model(theta)
    return predicted, jacobian.transpose(0, 2, 1)


def side_by_side(columns: Sequence[Array]) -> Array:
    """Derivatives (S, n, p) of their columns (S, n), those of a parameter together in memory, as
    the descent takes them.
    """
    return np.stack(np.broadcast_arrays(*columns), axis=1).transpose(0, 2, 1)


def _objective(residuals: Array, weights: Array, delta: float) -> Array:
    with np.errstate(over="ignore", invalid="ignore"):
        value = (weights * huber(residuals, delta)).sum(axis=1)
    return np.where(np.isfinite(value), value, np.inf)


def compute_covariance(model: Model, theta: Array, target: Array) -> tuple[Array, int]:
    """s^2 (J'J)^-1 of an unweighted least-squares fit at theta (p,), and its degrees of freedom.

    Infinite where J'J is singular, nan without a degree of freedom.
    """
    predicted, jacobian = model(theta[None])
    J, residuals = jacobian[0], predicted[0] - target
    dof = len(residuals) - len(theta)
    if dof <= 0:
        return np.full((len(theta), len(theta)), np.nan), dof
    scale = np.linalg.norm(J, axis=0)
    if not np.all(scale > 0) or np.linalg.cond(J / scale) > 1e14:
        return np.full((len(theta), len(theta)), np.inf), dof
    inverse = np.linalg.inv((J / scale).T @ (J / scale)) / np.outer(scale, scale)
    return inverse * (residuals @ residuals) / dof, dof


def condition_number(model: Model, theta: Array) -> float:
    """Condition of the Jacobian at theta (p,), its columns scaled to length one: 1 is ideal."""
    jacobian = model(theta[None])[1][0]
    scale = np.linalg.norm(jacobian, axis=0)
    return float(np.linalg.cond(jacobian / scale)) if np.all(scale > 0) else float("inf")
