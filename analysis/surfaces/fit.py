"""A loss surface of one of the forms, fitted to runs of N parameters and D tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from analysis.fitting.average import akaike_of_huber
from analysis.fitting.checks import positive
from analysis.fitting.edges import Edge
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.status import FitError
from analysis.fitting.text import pluralize
from analysis.laws.fit import fit_law
from analysis.laws.forms import SURFACES
from analysis.laws.law import Law, Variables
from analysis.laws.result import FittedLaw

HOFFMANN_S = 1e-3  # Huber's delta of Hoffmann 2022


@dataclass(frozen=True, kw_only=True, repr=False)
class SurfaceFit(FittedLaw):
    """A surface L(N, D) in nats/token; `form_name` is its key in SURFACES.

    n_unique, wherever it is asked for: how many of the tokens are unique, for a form in which
    repeated ones count less; by default all.
    """

    @property
    def aicc(self) -> float:
        """Corrected Akaike criterion, comparable between forms on the same runs at one delta."""
        k = len(self.names) - len(self.fixed)
        return akaike_of_huber(self.objective, self.delta, self.n_points, k)

    def predict(
        self,
        n_params: ArrayLike,
        n_tokens: ArrayLike,
        *,
        n_unique: ArrayLike | None = None,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """Loss in nats/token, with the interval of the law or, new_run, of one more run there: the
        law's and the scatter of the runs about it, by Student's t, combined as independent.
        """
        law = self._predict(_at(n_params, n_tokens, n_unique), level)
        return self._with_scatter(law) if new_run else law

    def loss(
        self, n_params: ArrayLike, n_tokens: ArrayLike, n_unique: ArrayLike | None = None
    ) -> Array:
        """Loss in nats/token, without the interval that predict needs all draws for."""
        return self.loss_at(_at(n_params, n_tokens, n_unique))

    def to_dict(self) -> dict[str, Any]:
        """As other fits; centre: N0 and D0, the geometric means of the runs."""
        return {**super().to_dict(), "centre": [float(np.exp(self.centre[v])) for v in "ND"]}


def fit_surface(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    form: str = "farseer",
    *,
    n_unique: ArrayLike | None = None,
    delta: float = HOFFMANN_S,
    groups: ArrayLike | None = None,
    edges: Sequence[Edge] = (),
    n_draws: int = 500,
    seed: int = 0,
) -> SurfaceFit:
    """Fits a surface by Huber's loss of ln L, summed; delta: inf for least squares.

    n_unique: how many of the tokens of each run are unique, for the form of repeated data;
    infinite where all are. n_draws: of the bootstrap, of runs or of whole groups of them, as in
    fit_parametric, which says more of Chinchilla's form: contours and exponents. edges: runs that
    it is fitted without too, so that intervals have the form's own error (fitting/edges.py). Raises
    ValueError naming the first bad value or form; FitError where there are not more distinct runs
    than parameters, where all sizes or all token counts are one, as then no exponent of it is
    identifiable, and for the form of repeated data where none is repeated.
    """
    if form not in SURFACES:
        raise ValueError(f"form={form!r} is not one of {', '.join(SURFACES)}")
    at, L = checked_runs(n_params, n_tokens, loss, SURFACES[form], n_unique)
    for name, values in (("sizes", at.N), ("token counts", at.D)):
        if np.ptp(np.log(values)) < 1e-9:
            raise FitError(f"all {name} are the same: their exponent in {form} is not identifiable")
    how: dict[str, Any] = {"delta": delta, "groups": groups, "n_draws": n_draws, "seed": seed}
    how["edges"] = edges
    return fit_law(SurfaceFit, SURFACES[form], at, L, **how)


def checked_runs(
    n_params: ArrayLike,
    n_tokens: ArrayLike,
    loss: ArrayLike,
    law: Law,
    n_unique: ArrayLike | None = None,
) -> tuple[Variables, Array]:
    """Columns of one length, above 0, of more distinct runs than the law has parameters.

    Raises ValueError naming the first bad value, FitError for too few runs.
    """
    columns = {"n_params": n_params, "n_tokens": n_tokens, "loss": loss}
    if n_unique is not None:
        columns["n_unique"] = n_unique
    arrays = {name: np.asarray(v, dtype=np.float64).ravel() for name, v in columns.items()}
    lengths = {name: len(values) for name, values in arrays.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"columns of different lengths: {lengths}")
    N, D, L = (positive(name, arrays[name]) for name in ("n_params", "n_tokens", "loss"))
    distinct, k = len(np.unique(np.stack([N, D]), axis=1).T), len(law.names)
    if distinct <= k:
        raise FitError(
            f"{pluralize(distinct, 'distinct run')}: the {k} parameters of {law.name} need at "
            f"least {k + 1}"
        )
    return Variables.of(N, D, U=_unique(arrays.get("n_unique"))), L


def _at(n_params: ArrayLike, n_tokens: ArrayLike, n_unique: ArrayLike | None) -> Variables:
    N, D = positive("n_params", n_params), positive("n_tokens", n_tokens)
    return Variables.of(N, D, U=_unique(n_unique))


def _unique(n_unique: ArrayLike | None) -> Array:
    """Infinite where it is not known."""
    given = np.asarray(np.inf if n_unique is None else n_unique, dtype=np.float64)
    if not (given > 0).all():
        raise ValueError(f"n_unique={given!r} must be above 0 tokens, infinite where all are new")
    return given
