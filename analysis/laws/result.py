"""A fitted law: what it predicts, with the intervals of its draws."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from analysis.fitting.checks import check_level
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.plain import plain
from analysis.fitting.results import DrawsFit
from analysis.laws.forms import LAWS
from analysis.laws.law import Centre, Law, Variables

Residual = Literal["log", "loss"]
_AT_ONCE = 100  # draws whose derivatives are held at once


@dataclass(frozen=True, kw_only=True, repr=False)
class FittedLaw(DrawsFit):
    """A law of the loss in nats/token; `form_name` is its key in LAWS.

    residual: what was fitted, ln L ("log") or L ("loss"); objective: the summed Huber loss of its
    residuals with bound delta, half their squares where it is infinite; rmse: of ln L whatever the
    residual; centre: of the runs; share_at_best: of the starts, those that reached the objective;
    gradient: see least_squares.Minima; condition: of the Jacobian with columns of length one, over
    the parameters free to move; thetas: the estimate, then the draws, as they were fitted. The law
    is predicted from these, without the rounding of large coefficients.
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

    @property
    def law(self) -> Law:
        """Its formula, and what it is in."""
        return LAWS[self.form_name]

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
        return self._over_draws(lambda thetas: np.exp(self._logs(at, thetas)), level)

    def _over_draws(self, of: Callable[[Array], Array], level: float) -> Prediction:
        """of: thetas (S, p) to values (S, ...). Draws where a value is nan are left out."""
        check_level(level)
        value = of(self.thetas[:1])[0]
        if len(self.thetas) == 1:
            nothing = np.full(np.shape(value), np.nan)
            return Prediction(value, nothing, nothing, level)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN slice")  # nan then, as it should be
            drawn = np.concatenate([of(part) for part in self._parts()[1:]])
            low, high = np.nanquantile(drawn, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return Prediction(value, low, high, level)

    def _parts(self) -> list[Array]:
        """The estimate by itself, so that its digits do not depend on the draws; then the draws."""
        draws = range(1, len(self.thetas), _AT_ONCE)
        return [self.thetas[:1], *(self.thetas[i : i + _AT_ONCE] for i in draws)]
