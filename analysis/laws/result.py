"""A fitted law: what it predicts, with the intervals of its draws."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

import numpy as np
import pandas as pd

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Array, Prediction, t_quantile
from analysis.fitting.least_squares import Model
from analysis.fitting.plain import plain
from analysis.fitting.power_sum import exponentiated
from analysis.fitting.profile import LeastSquares, differentiated
from analysis.fitting.results import DrawsFit
from analysis.laws.edges import Edge, error_of_form, widened
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
    edges, without: runs that it was fitted without too, and thetas then (edges.py), which make the
    form's own error, a part of the intervals of predictions; none of a law that stands alone.
    misfit: whether it misses its runs in a pattern.
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
    edges: tuple[Edge, ...] = field(repr=False, compare=False)
    without: Array = field(repr=False, compare=False)
    misfit: bool = field(repr=False, compare=False, default=False)
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

    @property
    def alone(self) -> Self:
        """Same without what edges say: its intervals hold if the form does."""
        return replace(self, edges=(), without=self.without[:0])

    def _predict(self, at: Variables, level: float) -> Prediction:
        sd = self.error_of_form(lambda thetas: self._logs(at, thetas), self._times(at))
        if self.runs is None:
            of_draws = self._over_draws(lambda thetas: np.exp(self._logs(at, thetas)), level)
            return widened(of_draws, sd, level, len(self.without))
        found = self._with_interval(self.law.model(at.flat(), self.centre), level)
        value, low, high = (np.exp(v).reshape(at.shape)[()] for v in found[:3])
        return widened(Prediction(value, low, high, level), sd, level, len(self.without))

    def error_of_form(self, of: Callable[[Array], Array], times: Array | float = 1.0) -> Array:
        """Standard deviation of the form's error of ln y; of: thetas (S, p) -> ln y (S, ...);
        times: what the fits without an edge are apart by counts so many times.
        """
        if not len(self.without):
            return np.zeros(())
        own = of(self.thetas[: self.without.shape[1]])
        without = np.stack([of(thetas) for thetas in self.without])
        return error_of_form(own, without, times, self.misfit)

    def _times(self, at: Variables) -> Array:
        """d / 2 g of each edge at these places (K, *shape), 1 at least: see edges.py."""
        logs = {"compute": np.log(at.N * at.D), "size": at.log("N"), "tokens": at.log("D")}
        logs |= {"experts": at.log("E")}
        times = [
            np.maximum((logs[edge.name] - edge.top) / (2 * edge.width), 1.0) for edge in self.edges
        ]
        return np.array(times).reshape(len(self.edges), *at.shape)

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
        to, back = (np.log, np.exp) if in_logs else (np.array, np.array)
        own = t_quantile(self.dof, law.level) * self.scatter
        value = to(law.value)
        down = np.hypot(value - to(law.lower), own)
        up = np.hypot(to(law.upper) - value, own)
        return Prediction(law.value, back(value - down), back(value + up), law.level)

    def edge_errors(self, edge: Edge, at: Variables, loss: Array) -> Array:
        """ln of what the law said of an edge's runs without them, less that of their loss."""
        k = next(i for i, one in enumerate(self.edges) if one is edge)
        return (self._logs(at, self.without[k, :1])[0] - np.log(loss))[edge.out]

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
            drawn = np.concatenate([of(part) for part in self._parts(self.thetas)[1:]])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(value, low, high, level)

    def _parts(self, thetas: Array) -> list[Array]:
        """Estimate by itself, so that its digits do not depend on the draws; then the draws."""
        draws = range(1, len(thetas), _AT_ONCE)
        return [thetas[:1], *(thetas[i : i + _AT_ONCE] for i in draws)]
