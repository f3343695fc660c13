"""Parametric loss surface L(N, D) = E + A/N^alpha + B/D^beta ("Approach 3").

Hoffmann 2022 (arXiv:2203.15556) §3.3: Huber's loss of the log residuals, summed. Besiroglu 2024
(arXiv:2404.10102) show what a loose optimiser does to it. Here E, A and B are solved for exactly
at each of a grid of (alpha, beta), variable projection, and the sum is descended from there.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.checks import positive
from analysis.fitting.intervals import Array, Estimate, NoMinimum
from analysis.laws.fit import fit_law
from analysis.laws.forms.chinchilla import LAW, chinchilla
from analysis.laws.powers import EXPONENT_BOUNDS
from analysis.laws.result import Residual
from analysis.surfaces.fit import HOFFMANN_S, SurfaceFit, checked_runs
from analysis.surfaces.optimum import FLOPS_PER_PARAM_TOKEN, has_minimum, sizes_within

NAMES = LAW.names
_STEEPEST = 10.0  # an exponent beyond is a cliff, and its powers overflow


@dataclass(frozen=True, kw_only=True, repr=False)
class ParametricFit(SurfaceFit):
    """E, A, B, alpha, beta of L = E + A/N^alpha + B/D^beta. N parameters, D tokens, nats/token.

    nd_range: of N*D over the runs.
    """

    nd_range: tuple[float, float]

    def optimum(
        self,
        budget: float,
        flops_per_param_token: float = FLOPS_PER_PARAM_TOKEN,
        level: float = 0.95,
    ) -> dict[str, Estimate]:
        """Compute-optimal n_params, n_tokens, tokens_per_param and loss at a budget of FLOPs.

        Hoffmann 2022, eq. 4: N* = G (C/6)^(beta/(alpha+beta)), G^(alpha+beta) = alpha A/(beta B).
        Of a size as far from the runs as no other surface's is looked for there is none.
        """
        within = sizes_within(self, budget, flops_per_param_token)
        rows = np.vstack([self.estimates, self.draws])
        E, A, B, alpha, beta = rows.T
        log_g = (np.log(alpha * A) - np.log(beta * B)) / (alpha + beta)
        spend = np.log(budget / flops_per_param_token)
        log_n = log_g + spend * beta / (alpha + beta)
        log_d = -log_g + spend * alpha / (alpha + beta)
        names = ("n_params", "n_tokens", "tokens_per_param", "loss")
        far = (log_n < np.log(within[0])) | (log_n > np.log(within[1]))
        if not has_minimum(np.where(far, np.nan, log_n)):
            return dict.fromkeys(names, NoMinimum.of(*within))
        N, D = np.exp(log_n[~far]), np.exp(log_d[~far])
        E, A, B, alpha, beta = rows[~far].T
        values = dict(zip(names, (N, D, D / N, E + A * N**-alpha + B * D**-beta), strict=True))
        return {n: Estimate.of_draws(v[0], v[1:], level) for n, v in values.items()}

    def exponents(self, level: float = 0.95) -> dict[str, Estimate]:
        """a and b of N* ~ C^a and D* ~ C^b."""
        alpha, beta = np.vstack([self.estimates, self.draws])[:, 3:].T
        a = beta / (alpha + beta)
        values = {"a": a, "b": 1 - a}
        return {n: Estimate.of_draws(v[0], v[1:], level) for n, v in values.items()}

    def contour(self, loss: float, n_params: ArrayLike) -> Array:
        """Tokens that reach a loss at each size: an iso-loss line. inf where none do."""
        E, A, B, alpha, beta = self.estimates
        rest = loss - E - A * positive("n_params", n_params) ** -alpha
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.where(rest > 0, (B / np.maximum(rest, 0)) ** (1 / beta), np.inf)


def fit_parametric(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    *,
    delta: float = HOFFMANN_S,
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
    low, high = exponent_bounds
    if not 0 < low < high <= _STEEPEST:
        raise ValueError(
            f"exponent_bounds={exponent_bounds!r} must be 0 < lower < upper <= {_STEEPEST:g}"
        )
    law = chinchilla(exponent_bounds)
    at, L = checked_runs(n_params, n_tokens, loss, law)
    compute = at.N * at.D
    how: dict[str, Any] = {"residual": residual, "delta": delta, "groups": groups}
    how |= {"n_draws": n_draws, "seed": seed}
    more = {"nd_range": (float(compute.min()), float(compute.max()))}
    return fit_law(ParametricFit, law, at, L, **how, more=more)
