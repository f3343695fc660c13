"""Laws L = E + A C^-alpha of several models with one asymptote E, at every E that may be.

At a given E each law is a line in ln(L - E), and intervals are those of lines. What is not known
of E widens them: they hold what any E that the losses do not exclude would give, as a profile
likelihood does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.fitting.intervals import Array
from analysis.fitting.least_squares import minimise
from analysis.fitting.power_sum import exponentiated, power_sum

Slopes = Literal["own", "one"]
SLOPES = ("own", "one")
_ALPHA = (1e-3, 5.0)
_LOG_A = 50.0  # the most that |ln A| may be at the middle of the budgets
_TOP = 1 - 1e-3  # the highest asymptote, as a share of the lowest loss
_ZERO = 1e-6  # as a share of the lowest loss: an asymptote that is none
_N_COARSE = 41
_FINE = np.geomspace(1e-6, 1, 30)  # distances from the best, as shares of the range


@dataclass(frozen=True, kw_only=True)
class Profile:
    """Best laws at each of S asymptotes, by least squares of the loss in nats.

    theta (S, p): ln A of each model at ln C = centre, then alpha of each, or one; unscaled
    (S, p, p): (J'J)^-1 of it; squares (S,): the sums of squares; best: the index of the lowest.
    """

    models: tuple[str, ...]
    slopes: Slopes
    centre: float
    asymptotes: Array
    theta: Array
    unscaled: Array
    squares: Array
    best: int

    def row(self, model: str, log_c: float) -> Array:
        """x (p,) with x . theta = ln(L - E) of the model at a compute."""
        found = np.zeros(self.theta.shape[1])
        found[self.models.index(model)] = 1
        found[self.slope_index(model)] = self.centre - log_c
        return found

    def slope_index(self, model: str) -> int:
        """Where theta has the model's alpha."""
        k = len(self.models)
        return k if self.slopes == "one" else k + self.models.index(model)


def fit_profile(
    models: Sequence[str],
    arms: Sequence[tuple[Array, Array]],
    slopes: Slopes,
    lowest: float,
    highest: float,
) -> Profile:
    """arms: ln C and losses of each model; lowest, highest: of the asymptotes, in nats/token."""
    log_c = np.concatenate([c for c, _ in arms])
    loss = np.concatenate([losses for _, losses in arms])
    centre = float(log_c.mean())
    of = np.repeat(np.arange(len(arms)), [len(c) for c, _ in arms])
    own = (of[:, None] == np.arange(len(arms))).astype(np.float64)
    u = (centre - log_c)[:, None]
    design = np.hstack([own, u if slopes == "one" else u * own])
    n_slopes = design.shape[1] - len(arms)
    low = np.array([-_LOG_A] * len(arms) + [_ALPHA[0]] * n_slopes)
    high = np.array([_LOG_A] * len(arms) + [_ALPHA[1]] * n_slopes)
    asymptotes = _asymptotes(
        design, loss, low, high, lowest, min(highest, _TOP * float(loss.min()))
    )
    minima = minimise(
        exponentiated(power_sum([design])),
        loss - asymptotes[:, None],
        _starts(design, loss, asymptotes),
        lower=low,
        upper=high,
    )
    jacobian = np.exp(minima.theta @ design.T)[:, :, None] * design
    squares = 2 * minima.value
    return Profile(
        models=tuple(models),
        slopes=slopes,
        centre=centre,
        asymptotes=asymptotes,
        theta=minima.theta,
        unscaled=np.linalg.pinv(jacobian.transpose(0, 2, 1) @ jacobian),
        squares=squares,
        best=int(squares.argmin()),
    )


def _asymptotes(
    design: Array, loss: Array, low: Array, high: Array, lowest: float, highest: float
) -> Array:
    """All over the range, and closer and closer about the one that fits best."""
    if lowest >= highest:
        return np.array([lowest])
    coarse = np.linspace(lowest, highest, _N_COARSE)
    tried = np.maximum(coarse, _ZERO * highest)
    one, none = np.ones((len(loss), 1)), np.zeros((len(loss), 1))
    found = minimise(
        exponentiated(
            power_sum([np.hstack([one, np.zeros_like(design)]), np.hstack([none, design])])
        ),
        loss,
        np.hstack([np.log(tried)[:, None], _starts(design, loss, tried)]),
        lower=np.concatenate([[np.log(tried[0])], low]),
        upper=np.concatenate([[np.log(tried[-1])], high]),
    )
    best = float(np.exp(found.theta[found.best, 0]))
    about = (highest - lowest) * _FINE
    every = np.concatenate([coarse, [best], best - about, best + about])
    return np.unique(every[(every >= lowest) & (every <= highest)])


def _starts(design: Array, loss: Array, asymptotes: Array) -> Array:
    """Lines through ln(L - E), each point with its weight in nats."""
    excess = loss - asymptotes[:, None]
    weighted = excess[:, :, None] * design
    solved = np.linalg.pinv(weighted) @ (excess * np.log(excess))[:, :, None]
    return solved[:, :, 0]
