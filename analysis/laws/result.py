"""A fitted law: what it predicts, with the intervals of its draws."""

from abc import abstractmethod
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import pandas as pd

from analysis.fitting.edges import EdgedFit, times_beyond_warned, widened
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.least_squares import Model
from analysis.fitting.plain import plain
from analysis.fitting.power_sum import exponentiated
from analysis.fitting.profile import LeastSquares, differentiated
from analysis.laws.forms import LAWS
from analysis.laws.law import Centre, Law, Variables

Residual = Literal["log", "loss"]
_EDGES = {"size": "N", "tokens": "D", "experts": "E"}  # their names, beside compute


@dataclass(frozen=True, kw_only=True)
class Runs:
    """Runs that a law is fitted to: the variables and loss (n,), and the box of theta, (p,)."""

    at: Variables
    loss: Array
    lower: Array
    upper: Array


@dataclass(frozen=True, kw_only=True, repr=False)
class FittedLaw(EdgedFit):
    """A law of the loss in nats/token; `form_name` is its key in LAWS.

    residual: what was fitted, ln L ("log") or L ("loss"); objective: the summed Huber loss of its
    residuals with bound delta, half their squares where it is infinite; rmse: of ln L whatever the
    residual; centre: of the runs; share_at_best: of the starts, those that reached the objective;
    gradient: see least_squares.Minima; condition: of the Jacobian with columns of length one, over
    the parameters free to move. The law is predicted from thetas, without the rounding of large
    coefficients.
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
        return self.losses_of(at, self.thetas)

    def losses_of(self, at: Variables, thetas: Array) -> Array:
        """nats/token by each theta (S, p), the first by itself, along the first axis."""
        parts = self._parts(thetas)
        return np.concatenate([np.exp(self._logs(at, part)) for part in parts])

    def to_dict(self) -> dict[str, Any]:
        """As other fits; theta is the estimate, and its draws are left out."""
        return {**super().to_dict(), "theta": plain(self.thetas[0])}

    def _logs(self, at: Variables, thetas: Array) -> Array:
        """ln L (S, *shape) by each theta (S, p)."""
        logs = self.law.model(at.flat(), self.centre)(thetas)[0]
        return logs.reshape(len(thetas), *at.shape)

    def _predict(self, at: Variables, level: float) -> Prediction:
        logs = {name: at.log(q) for name, q in _EDGES.items()} | {"compute": np.log(at.N * at.D)}
        times = times_beyond_warned(self.edges, logs.__getitem__)
        sd = self.error_of_form(lambda thetas: self._logs(at, thetas), times)
        if self.runs is None:
            # Percentiles of losses, between which a quantile is a straight line
            drawn = self._over_draws(lambda thetas: np.exp(self._logs(at, thetas)), level)
            found = drawn.on(np.log)
        else:
            found = self._with_interval(self.law.model(at.flat(), self.centre), level)
            found = found.on(lambda v: v.reshape(at.shape))
        return widened(found, sd, level, len(self.without)).on(np.exp)

    @property
    @abstractmethod
    def aicc(self) -> float:
        """Corrected Akaike criterion."""

    @property
    def n_free(self) -> int:
        return len(self.names) - len(self.fixed)

    @property
    def dof(self) -> int:
        """Degrees of freedom of the scatter."""
        return self.n_points - self.n_free

    @property
    def scatter(self) -> float:
        """Standard deviation of a run about the law, of the residual; of ln L with Huber's loss."""
        least_squares = 2 * self.objective / self.dof
        of_huber = self.rmse**2 * self.n_points / self.dof
        return float(np.sqrt(least_squares if np.isinf(self.delta) else of_huber))

    def _with_scatter(self, law: Prediction) -> Prediction:
        """Interval of one more run, on the scale where the scatter is one number."""
        in_logs = self.residual == "log" or np.isfinite(self.delta)
        own = t_quantile(self.dof, law.level) * self.scatter
        return law.on(np.log).wider(own).on(np.exp) if in_logs else law.wider(own)

    def _with_interval(self, of: Model, level: float) -> Prediction:
        """Functions of theta, (S, p) -> values (S, K) and their derivatives: (K,) each."""
        fit = self.least_squares
        if fit is None:
            return self._over_draws(lambda thetas: of(thetas)[0], level)
        low, high = fit.interval(of, level)
        return Prediction(of(self.thetas[:1])[0][0], low, high, level)
