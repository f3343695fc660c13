"""The parametric loss surface L(N, D) = E + A/N^alpha + B/D^beta ("Approach 3").

Hoffmann 2022 (arXiv:2203.15556) §3.3: Huber's loss of the log residuals, summed. Besiroglu 2024
(arXiv:2404.10102) show what a loose optimiser does to it. Here E, A and B are solved for exactly
at each of a grid of (alpha, beta), variable projection, and the sum is descended from there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.fitting.checks import positive
from analysis.fitting.clusters import cluster_codes, describe_draws, drawn_counts, few_clusters
from analysis.fitting.intervals import Array, Estimate, Prediction, percentiles
from analysis.fitting.least_squares import Minima, Model, condition_number, minimise
from analysis.fitting.power_sum import exponentiated, non_negative, power_sum
from analysis.fitting.results import DrawsFit
from analysis.fitting.status import FitError, FitStatus, Warnings

Residual = Literal["log", "loss"]
NAMES = ("E", "A", "B", "alpha", "beta")
EXPONENT_BOUNDS = (0.01, 2.0)  # published exponents are between 0.05 and 0.7
FLOPS_PER_PARAM_TOKEN = (
    6.0  # C = 6ND, where nothing was counted; wrong where attention or head matter
)
_STEEPEST = 10.0  # an exponent beyond is a cliff, and its powers overflow
_GRID = 24  # values of each exponent that variable projection tries
_LOG_FLOOR = np.log(1e-4)  # E and coefficients below 1e-4 of the loss count as nothing
_SAME = 1e-6  # relative: starts this near the best objective found the same minimum
_COLLINEAR = 3e3  # condition number; see docs/analysis.md for what it is on known designs


@dataclass(frozen=True, kw_only=True, repr=False)
class ParametricFit(DrawsFit):
    """E, A, B, alpha, beta of L = E + A/N^alpha + B/D^beta. N parameters, D tokens, nats/token.

    objective: the summed Huber loss (of log residuals unless residual="loss"); share_at_best: of
    the starts, those that reached it; gradient: see least_squares.Minima; condition: of the
    Jacobian with columns of length one; nd_range: of N*D over the runs; rmse: of log residuals.
    """

    residual: Residual
    delta: float
    share_at_best: float
    n_starts: int
    gradient: float
    condition: float
    nd_range: tuple[float, float]
    rmse: float

    def predict(
        self, n_params: ArrayLike, n_tokens: ArrayLike, *, level: float = 0.95
    ) -> Prediction:
        """The loss in nats/token; the interval is of the law, without a run's own noise."""
        N, D = np.broadcast_arrays(positive("n_params", n_params), positive("n_tokens", n_tokens))
        value = self.loss(N, D)
        draws = np.stack([self._loss(d, N, D) for d in self.draws]) if len(self.draws) else None
        empty = np.empty((0, *N.shape))
        return Prediction(value, *percentiles(empty if draws is None else draws, level), level)

    def loss(self, n_params: ArrayLike, n_tokens: ArrayLike) -> Array:
        """The loss in nats/token, without the interval that predict needs all draws for."""
        N, D = positive("n_params", n_params), positive("n_tokens", n_tokens)
        return self._loss(np.array(self.estimates), N, D)

    @staticmethod
    def _loss(params: Array, N: Array, D: Array) -> Array:
        E, A, B, alpha, beta = params
        return E + A * N**-alpha + B * D**-beta

    def optimum(
        self,
        budget: float,
        flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
        level: float = 0.95,
    ) -> dict[str, Estimate]:
        """Compute-optimal n_params, n_tokens, tokens_per_param and loss at a budget of FLOPs.

        Hoffmann 2022, eq. 4: N* = G (C/6)^(beta/(alpha+beta)), G^(alpha+beta) = alpha A/(beta B).
        """
        positive("budget", budget)
        positive("flops_per_param_token", flops_per_param_token)
        rows = np.vstack([self.estimates, self.draws])
        E, A, B, alpha, beta = rows.T
        log_g = (np.log(alpha * A) - np.log(beta * B)) / (alpha + beta)
        spend = np.log(budget / flops_per_param_token)
        N = np.exp(log_g + spend * beta / (alpha + beta))
        D = np.exp(-log_g + spend * alpha / (alpha + beta))
        values = {
            "n_params": N,
            "n_tokens": D,
            "tokens_per_param": D / N,
            "loss": E + A * N**-alpha + B * D**-beta,
        }
        return {name: _estimate(value, level) for name, value in values.items()}

    def exponents(self, level: float = 0.95) -> dict[str, Estimate]:
        """a and b of N* ~ C^a and D* ~ C^b."""
        alpha, beta = np.vstack([self.estimates, self.draws])[:, 3:].T
        a = beta / (alpha + beta)
        return {"a": _estimate(a, level), "b": _estimate(1 - a, level)}

    def contour(self, loss: float, n_params: ArrayLike) -> Array:
        """The tokens that reach a loss at each size: an iso-loss line. inf where none do."""
        E, A, B, alpha, beta = self.estimates
        rest = loss - E - A * positive("n_params", n_params) ** -alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(rest > 0, (B / np.maximum(rest, 0)) ** (1 / beta), np.inf)


def fit_parametric(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    *,
    delta: float = 1e-3,
    residual: Residual = "log",
    groups: ArrayLike | None = None,
    exponent_bounds: tuple[float, float] = EXPONENT_BOUNDS,
    n_draws: int = 1000,
    seed: int = 0,
) -> ParametricFit:
    """Fits E, A, B, alpha, beta to runs of N parameters, D tokens and a loss in nats/token.

    delta: Huber's, in units of the residual; infinite for plain least squares. residual: of the
    log loss ("log", Hoffmann's) or of the loss. groups: the bootstrap draws whole groups, e.g.
    the checkpoints of a run, rather than runs. What asks for care (a bound hit, a design that does
    not identify alpha and beta, few starts at the best value, draws that ran off) is in status and
    warnings. Raises ValueError naming the first bad value; FitError below six distinct runs.
    """
    N, D, L = _checked(n_params, n_tokens, loss)
    if residual not in ("log", "loss"):
        raise ValueError(f"residual={residual!r} is neither 'log' nor 'loss'")
    if not delta > 0:
        raise ValueError(f"delta={delta!r} must be above 0; inf is plain least squares")
    low, high = exponent_bounds
    if not 0 < low < high <= _STEEPEST:
        raise ValueError(
            f"exponent_bounds={exponent_bounds!r} must be 0 < lower < upper <= {_STEEPEST:g}"
        )
    if n_draws < 0:
        raise ValueError(f"n_draws={n_draws} must be 0 or more")
    clusters = None if groups is None else cluster_codes(groups, len(L))

    # Centred: N^-alpha of 1e9 parameters and its coefficient would differ by ten digits.
    centre_n, centre_d = np.log(N).mean(), np.log(D).mean()
    x, y = np.log(N) - centre_n, np.log(D) - centre_d
    model = _model(x, y)
    if residual == "loss":
        model = exponentiated(model)
    target = np.log(L) if residual == "log" else L
    top = np.log(L.min())
    lower = np.array([top + _LOG_FLOOR, top + _LOG_FLOOR, top + _LOG_FLOOR, low, low])
    upper = np.array([top, top + 50, top + 50, high, high])

    starts = _projected_starts(x, y, L, residual, exponent_bounds, lower)
    minima = minimise(model, target, starts, lower=lower, upper=upper, delta=delta)
    best = minima.best
    theta, warned = minima.theta[best], Warnings()
    reached = minima.value <= minima.value[best] * (1 + _SAME) + 1e-25
    condition = condition_number(model, theta)
    _check_design(warned, x, y, condition)
    _check_optimum(warned, minima, exponent_bounds, float(reached.mean()))
    if len(L) < 2 * len(NAMES):
        warned.add(f"{len(L)} runs for 5 parameters: the intervals say little")
    for text in few_clusters(clusters):
        warned.add(text)

    drawn = _bootstrap(model, target, theta, lower, upper, delta, clusters, n_draws, seed)
    ran_off = float(drawn.at_bound.any(axis=1).mean()) if n_draws else 0.0
    if ran_off > 0.05:
        warned.add(f"{ran_off:.0%} of the bootstrap draws stopped at a bound")
    residuals = np.log(_surface(theta, x, y)) - np.log(L)
    return ParametricFit(
        form="L = E + A/N^alpha + B/D^beta",
        names=NAMES,
        estimates=tuple(_natural(theta[None], centre_n, centre_d)[0].tolist()),
        n_points=len(L),
        objective=float(minima.value[best]),
        interval=describe_draws(n_draws, clusters),
        status=warned.status,
        warnings=tuple(warned.texts),
        draws=_natural(drawn.theta, centre_n, centre_d),
        residual=residual,
        delta=float(delta),
        share_at_best=float(reached.mean()),
        n_starts=len(starts),
        gradient=float(minima.gradient[best]),
        condition=condition,
        nd_range=(float((N * D).min()), float((N * D).max())),
        rmse=float(np.sqrt(np.mean(residuals**2))),
    )


def _model(x: Array, y: Array) -> Model:
    """theta = log E, log A', log B', alpha, beta, with A' and B' at the centres of N and D."""
    zero, one = np.zeros_like(x), np.ones_like(x)
    return power_sum(
        [
            np.stack([one, zero, zero, zero, zero], axis=1),
            np.stack([zero, one, zero, -x, zero], axis=1),
            np.stack([zero, zero, one, zero, -y], axis=1),
        ]
    )


def _surface(theta: Array, x: Array, y: Array) -> Array:
    return np.exp(_model(x, y)(theta[None])[0][0])


def _natural(theta: Array, centre_n: float, centre_d: float) -> Array:
    log_e, log_a, log_b, alpha, beta = theta.T
    A, B = np.exp(log_a + alpha * centre_n), np.exp(log_b + beta * centre_d)
    return np.stack([np.exp(log_e), A, B, alpha, beta], axis=1)


def _projected_starts(
    x: Array,
    y: Array,
    L: Array,
    residual: Residual,
    bounds: tuple[float, float],
    lower: Array,
) -> Array:
    """Starts in theta: variable projection's own optimum first, then all over the exponents.

    For each (alpha, beta) the E, A, B >= 0 of least squares, relative for log residuals.
    """
    exponents = np.geomspace(bounds[0], bounds[1], _GRID)
    alpha, beta = (grid.ravel() for grid in np.meshgrid(exponents, exponents, indexing="ij"))
    design = np.stack(
        [np.ones((_GRID**2, len(L))), np.exp(-np.outer(alpha, x)), np.exp(-np.outer(beta, y))],
        axis=1,
    )
    weighted = design * (L**-2 if residual == "log" else np.ones_like(L))
    gram, moments = weighted @ design.transpose(0, 2, 1), weighted @ L
    solved = non_negative(gram, moments)
    gain = (solved * moments).sum(axis=-1)  # of the sum of squares over predicting nothing
    logs = np.log(np.maximum(solved, np.exp(lower[:3])))
    grid = np.column_stack([logs, alpha, beta])
    coarse = grid.reshape(_GRID, _GRID, -1)[1::4, 1::4].reshape(-1, grid.shape[1])
    return np.vstack([grid[[int(np.argmax(gain))]], coarse])


def _bootstrap(
    model: Model,
    target: Array,
    theta: Array,
    lower: Array,
    upper: Array,
    delta: float,
    clusters: np.ndarray | None,
    n_draws: int,
    seed: int,
) -> Minima:
    """Refits with each point, or each group, counted as often as it was drawn."""
    weights = drawn_counts(len(target), n_draws, np.random.default_rng(seed), clusters)
    starts = np.repeat(theta[None], n_draws, axis=0)
    return minimise(model, target, starts, lower=lower, upper=upper, weights=weights, delta=delta)


def _check_design(warned: Warnings, x: Array, y: Array, condition: float) -> None:
    spread = [np.ptp(v) < 1e-9 for v in (x, y)]
    if any(spread):
        name = "sizes" if spread[0] else "token counts"
        warned.add(f"all {name} are the same: its exponent is not identifiable")
        return
    correlation = float(np.corrcoef(x, y)[0, 1])
    if abs(correlation) > 0.99:
        what = "tokens per parameter are" if correlation > 0 else "the budget is"
        warned.add(
            f"log N and log D are collinear (r = {correlation:.4f}): {what} nearly fixed, and "
            "alpha and beta are not identifiable; vary N at each D"
        )
    elif condition > _COLLINEAR:
        warned.add(
            f"the design is nearly collinear (condition number {condition:.3g}): other values "
            "of the parameters fit as well; see the intervals"
        )


def _check_optimum(
    warned: Warnings, minima: Minima, bounds: tuple[float, float], share: float
) -> None:
    best = minima.best
    theta, stuck = minima.theta[best], minima.at_bound[best]
    for name, value, hit in zip(NAMES, theta, stuck, strict=True):
        if not hit:
            continue
        if name in ("alpha", "beta"):
            text = f"{name}={value:.3g} is at the edge of exponent_bounds={bounds}"
        elif name == "E":
            at_top = value > minima.theta[best, 1:3].min()
            text = (
                "E stopped at the lowest loss of the data: this form does not describe these runs"
                if at_top
                else "E stopped at 0: an irreducible loss is not identifiable from these runs"
            )
        else:
            text = f"{name} is at its bound: its term does not matter to these runs"
        warned.add(text, FitStatus.BOUND_HIT)
    if not minima.converged[best]:
        warned.add(
            f"the descent did not converge: gradient {minima.gradient[best]:.1e}",
            FitStatus.MAX_ITER,
        )
    if share < 0.2:
        warned.add(f"only {share:.0%} of {len(minima.value)} starts reached the best value")


def _checked(*columns: ArrayLike) -> Sequence[Array]:
    arrays = [np.asarray(column, dtype=np.float64).ravel() for column in columns]
    names = ("n_params", "n_tokens", "loss")
    lengths = {name: len(a) for name, a in zip(names, arrays, strict=True)}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    for name, values in zip(names, arrays, strict=True):
        positive(name, values)
    distinct = pd.DataFrame(dict(zip(names, arrays, strict=True))).drop_duplicates(names[:2])
    if len(distinct) <= len(NAMES):
        raise FitError(f"{len(distinct)} distinct runs: 5 parameters need at least 6")
    return arrays


def _estimate(values: Array, level: float) -> Estimate:
    """The first is the estimate, the rest its draws."""
    low, high = percentiles(values[1:], level)
    return Estimate(float(values[0]), float(low), float(high))
