"""A loss surface of one of the forms, fitted to runs of N parameters and D tokens."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.checks import positive
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.status import FitError
from analysis.fitting.text import pluralize
from analysis.laws.fit import fit_law
from analysis.laws.forms import SURFACES
from analysis.laws.law import Law, Variables
from analysis.laws.result import FittedLaw


@dataclass(frozen=True, kw_only=True, repr=False)
class SurfaceFit(FittedLaw):
    """A surface L(N, D) in nats/token; `form_name` is its key in SURFACES."""

    def predict(
        self, n_params: ArrayLike, n_tokens: ArrayLike, *, level: float = 0.95
    ) -> Prediction:
        """The loss in nats/token; the interval is of the law, without a run's own noise."""
        return self._predict(_at(n_params, n_tokens), level)

    def loss(self, n_params: ArrayLike, n_tokens: ArrayLike) -> Array:
        """The loss in nats/token, without the interval that predict needs all draws for."""
        return self.loss_at(_at(n_params, n_tokens))

    def to_dict(self) -> dict[str, Any]:
        """As other fits; centre: N0 and D0, the geometric means of the runs."""
        return {**super().to_dict(), "centre": [float(np.exp(self.centre[v])) for v in "ND"]}


def fit_surface(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    form: str = "farseer",
    *,
    delta: float = 1e-3,
    groups: ArrayLike | None = None,
    n_draws: int = 500,
    seed: int = 0,
) -> SurfaceFit:
    """Fits a surface by Huber's loss of ln L, summed; delta: inf for least squares.

    n_draws: of the bootstrap, of runs or of whole groups of them, as in fit_parametric, which says
    more of Chinchilla's form: the optimum of a budget and contours. Raises ValueError naming the
    first bad value or form; FitError where there are not more distinct runs than parameters, and
    where all sizes or all token counts are one, as then no exponent of it is identifiable.
    """
    if form not in SURFACES:
        raise ValueError(f"form={form!r} is not one of {', '.join(SURFACES)}")
    at, L = checked_runs(n_params, n_tokens, loss, SURFACES[form])
    for name, values in (("sizes", at.N), ("token counts", at.D)):
        if np.ptp(np.log(values)) < 1e-9:
            raise FitError(f"all {name} are the same: their exponent in {form} is not identifiable")
    how: dict[str, Any] = {"delta": delta, "groups": groups, "n_draws": n_draws, "seed": seed}
    return fit_law(SurfaceFit, SURFACES[form], at, L, **how)


def checked_runs(
    n_params: ArrayLike, n_tokens: ArrayLike, loss: ArrayLike, law: Law
) -> tuple[Variables, Array]:
    """Columns of one length, above 0, of more distinct runs than the law has parameters.

    Raises ValueError naming the first bad value, FitError for too few runs.
    """
    columns = {"n_params": n_params, "n_tokens": n_tokens, "loss": loss}
    arrays = {name: np.asarray(v, dtype=np.float64).ravel() for name, v in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    N, D, L = (positive(name, values) for name, values in arrays.items())
    distinct, k = len(np.unique(np.stack([N, D]), axis=1).T), len(law.names)
    if distinct <= k:
        raise FitError(
            f"{pluralize(distinct, 'distinct run')}: the {k} parameters of {law.name} need at "
            f"least {k + 1}"
        )
    return Variables.of(N, D), L


def _at(n_params: ArrayLike, n_tokens: ArrayLike) -> Variables:
    return Variables.of(positive("n_params", n_params), positive("n_tokens", n_tokens))
