"""A fitted law: what it predicts, with the intervals of its draws."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.least_squares import Model
from analysis.fitting.plain import plain
from analysis.fitting.power_sum import exponentiated
from analysis.fitting.profile import LeastSquares, differentiated
from analysis.fitting.results import DrawsFit
from analysis.laws.forms import LAWS
from analysis.laws.law import Centre, Law, Variables

Residual = Literal["log", "loss"]
_AT_ONCE = 100  # draws whose derivatives are held at once


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs that a law is fitted to: the variables and loss (n,), and the box of theta, (p,)."""

    at: Variables
    loss: Array
    lower: Array
    upper: Array


@dataclass(frozen=True, kw_only=True, repr=False)
class FittedLaw(DrawsFit):
    """A law of the loss in nats/token; `form_name` is its key in LAWS.

    residual: what was fitted, ln L ("log") or L ("loss"); objective: the summed Huber loss of its
    residuals with bound delta, half their squares where it is infinite; rmse: of ln L whatever the
    residual; centre: of the runs; share_at_best: of the starts, those that reached the objective;
    gradient: see least_squares.Minima; condition: of the Jacobian with columns of length one, over
    the parameters free to move; thetas: the estimate, then the draws, as they were fitted. The law
    is predicted from these, without the rounding of large coefficients.
    runs: of a fit that has a likelihood, whose intervals are of its profile; else None, and they
    are percentiles of the draws.
    """

    form_name: str
    residual: Residual
    delta: float
    rmse: float
    centre: Centre
    share_at_best: float
    n_starts: int
    gradient: float
    condition: float
    thetas: Array = field(repr=False, compare=False)
    runs: Runs | None = field(repr=False, compare=False)

    @property
    def law(self) -> Law:
        """Its formula, and what it is in."""
        return LAWS[self.form_name]

    def conf_int(self, level: float = 0.95) -> pd.DataFrame:
        """A row a parameter: lower, upper; 0 for those that were not fitted."""
        fit = self.least_squares
        if fit is None:
            return super().conf_int(level)
        free, logs = ~np.isin(self.names, self.fixed), np.isin(self.names, self.law.logs)

        def of(thetas: Array) -> Array:
            found = self.law.natural(thetas, self.centre)
            found[:, logs & free] = np.log(found[:, logs & free])
            return found[:, free]

        bounds = np.zeros((len(self.names), 2))
        bounds[free] = np.stack(fit.interval(differentiated(of), level), axis=1)
        with np.errstate(over="ignore"):  # a coefficient that is not identifiable: up to infinity
            bounds[logs & free] = np.exp(bounds[logs & free])
        return pd.DataFrame(bounds, index=list(self.names), columns=["lower", "upper"])

    @property
    def least_squares(self) -> LeastSquares | None:
        """Fit, for profiles of its likelihood; None where it has none."""
        if self.runs is None:
            return None
        model, target = self.law.model(self.runs.at, self.centre), np.log(self.runs.loss)
        if self.residual == "loss":
            model, target = exponentiated(model), self.runs.loss
        return LeastSquares(
            model=model,
            target=target,
            lower=self.runs.lower,
            upper=self.runs.upper,
            theta=self.thetas[0],
            dof=self.n_points - len(self.names) + len(self.fixed),
        )

    def loss_at(self, at: Variables) -> Array:
        """nats/token, without the interval."""
        return np.exp(self._logs(at, self.thetas[:1])[0])

    def drawn_losses(self, at: Variables) -> Array:
        """nats/token by the estimate, then by each draw, along the first axis."""
        return np.concatenate([np.exp(self._logs(at, part)) for part in self._parts()])

    def to_dict(self) -> dict[str, Any]:
        """As other fits; theta is the estimate, and its draws are left out."""
        return {**super().to_dict(), "theta": plain(self.thetas[0])}

    def _logs(self, at: Variables, thetas: Array) -> Array:
        """ln L (S, *shape) by each theta (S, p)."""
        logs = self.law.model(at.flat(), self.centre)(thetas)[0]
        return logs.reshape(len(thetas), *at.shape)

    def _predict(self, at: Variables, level: float) -> Prediction:
        if self.runs is None:
            return self._over_draws(lambda thetas: np.exp(self._logs(at, thetas)), level)
        found = self._with_interval(self.law.model(at.flat(), self.centre), level)
        value, low, high = (np.exp(v).reshape(at.shape)[()] for v in found[:3])
        return Prediction(value, low, high, level)

    def _with_interval(self, of: Model, level: float) -> Prediction:
        """Functions of theta, (S, p) -> values (S, K) and their derivatives: (K,) each."""
        fit = self.least_squares
        if fit is None:
            return self._over_draws(lambda thetas: of(thetas)[0], level)
        low, high = fit.interval(of, level)
        return Prediction(of(self.thetas[:1])[0][0], low, high, level)

    def _over_draws(self, of: Callable[[Array], Array], level: float) -> Prediction:
        """of: thetas (S, p) to values (S, K). Draws where a value is nan are left out."""
        value = of(self.thetas[:1])[0]
        check_level(level)
        if len(self.thetas) == 1:
            nothing = np.full(np.shape(value), np.nan)
            return Prediction(value, nothing, nothing, level)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")  # nan then, as it should be
            drawn = np.concatenate([of(part) for part in self._parts()[1:]])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(value, low, high, level)

    def _parts(self) -> list[Array]:
        """Estimate by itself, so that its digits do not depend on the draws; then the draws."""
        draws = range(1, len(self.thetas), _AT_ONCE)
        return [self.thetas[:1], *(self.thetas[i : i + _AT_ONCE] for i in draws)]
