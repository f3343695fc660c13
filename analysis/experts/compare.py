"""Laws of experts side by side: by AICc on all runs, and by what they say of runs held out.

Where the runs don't exclude all laws but one, none is chosen: predictions are averages over those
that are left.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from analysis.experts.fit import fit_runs
from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import BACKBONE, ExpertRuns, choose_runs
from analysis.fitting.edges import Edge, find_edges
from analysis.fitting.hold_out import largest
from analysis.fitting.intervals import Array, Prediction
from analysis.fitting.status import FitError
from analysis.laws.compare import Compared, ComparedLaw, Comparison, with_weights
from analysis.laws.result import Residual
from analysis.table.warned import warned

HoldOut = Literal["size", "experts", "budget", "tokens", "cells"]
HOLD_OUT: tuple[HoldOut, ...] = get_args(HoldOut)
_COLUMNS = {"experts": "n_experts", "budget": "budget", "tokens": "n_tokens", "cells": "n_tokens"}
_CELLS = 0.2  # share of the runs that "cells" holds out, those of the most compute
# In a size and a number of experts alone, which every table with experts has
DEFAULT_FORMS = ("loglinear", "power_floor", "clark", "clark_floor")


@dataclass(frozen=True, kw_only=True, repr=False)
class LawComparison(Comparison):
    """Forms in order of AICc; those without one as asked for."""

    columns: ClassVar[tuple[str, ...]] = (
        "form_name", "n_params", "rmse", "aicc", "delta_aicc", "weight", "edge_weight",
        "held_out_rmse", "held_out_bias", "status",
    )  # fmt: skip
    model: str
    laws: tuple[ComparedLaw, ...]
    fits: tuple[ExpertLawFit, ...]

    @property
    def compared(self) -> Sequence[ComparedLaw]:
        return self.laws

    def predict(
        self,
        size: ArrayLike,
        n_experts: ArrayLike | None = None,
        n_tokens: ArrayLike | None = None,
        granularity: ArrayLike | None = None,
        sparsity: ArrayLike | None = None,
        *,
        level: float = 0.95,
        new_run: bool = False,
    ) -> Prediction:
        """Loss in nats/token by the `predicting` laws: the mean of ln L by their weights, with
        the interval that holds those of all.

        Arguments as of ExpertLawFit.predict. Raises ValueError where no form has an AICc.
        """
        at = size, n_experts, n_tokens, granularity, sparsity
        return self._averaged(lambda fit: fit.predict(*at, level=level, new_run=new_run), level)

    def over_experts(self) -> pd.DataFrame:
        """Averages of `predict` at the smallest and largest size, at the most experts tried
        and at four times as many: size, n_experts, loss in nats/token, lower, upper (95 %).

        Of laws in a size and a number of experts alone; no row for others, or without an AICc.
        """
        names = ["size", "n_experts", "loss", "lower", "upper"]
        fits = [fit for fit in self.fits if fit.form_name in self.possible]
        if not fits or not all(fit.of_experts_alone for fit in fits):
            return pd.DataFrame(columns=names)
        ends = sorted({fits[0].sizes[0], fits[0].sizes[-1]})
        at = [(N, E) for N in ends for E in (fits[0].experts[-1], 4 * fits[0].experts[-1])]
        size, n_experts = np.array(at).T
        found = self.predict(size, n_experts)
        columns = (size, n_experts, found.value, found.lower, found.upper)
        return pd.DataFrame(dict(zip(names, columns, strict=True)))

    @property
    def disagreement(self) -> list[str]:
        """Where the two ways of choosing disagree, or do not choose."""
        found = []
        first = self.laws[0]
        held = [law for law in self.laws if np.isfinite(law.held_out_rmse)]
        best = min(held, key=lambda law: law.held_out_rmse, default=first)
        if np.isfinite(first.aicc) and best is not first:
            found.append(
                f"{first.form_name} is best by AICc, {best.form_name} on what was held out: "
                "neither is established"
            )
        found += [*self._extrapolates, *self._none_excluded]
        for law in self.laws:
            if not np.isfinite(law.aicc):
                found.append(
                    f"AICc needs more runs: {law.n_params + 3} for {law.form_name}, "
                    f"not {self.n_points}"
                )
        return found

    def _heading(self) -> str:
        return f"{self.model}: {self.n_points} runs; held out: {self.held_out}"


@warned(by_cell=False)  # as fit_expert_law
def compare_laws(
    table: pd.DataFrame,
    forms: Sequence[str] = DEFAULT_FORMS,
    *,
    hold_out: HoldOut = "size",
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    residual: Residual = "log",
    cluster: str | None = None,
    n_draws: int = 500,
    seed: int = 0,
) -> LawComparison:
    """Fits every form to the same runs, and again without the largest of them.

    The same runs: the best of each combination of all that one of the forms has a term for, so
    that their AICc are comparable. Held out are the runs of the largest size, number of experts,
    budget or token count; or "cells", the fifth of the runs with the most compute (the budget, or
    else N D). What can't be fitted is skipped, with the reason. Arguments as in fit_expert_law.
    Raises ValueError if the table lacks what one of the forms needs or has runs that it does not
    distinguish, FitError if no form can be fitted.
    """
    if hold_out not in HOLD_OUT:
        raise ValueError(f"hold_out={hold_out!r} is not one of {', '.join(HOLD_OUT)}")
    column = _COLUMNS.get(hold_out, size)
    runs = choose_runs(
        table,
        forms,
        model=model,
        baseline=baseline,
        size=size,
        by=[column, *([cluster] if cluster else [])],
    )
    edges = _edges(runs)
    fits, skipped = _fit_each(runs, dict.fromkeys(forms), residual, n_draws, seed, cluster, edges)
    if not fits:
        raise FitError(f"no form to compare: {'; '.join(skipped)}")

    own = runs.cells["model"] == runs.model
    held, out, reason = _largest(runs, hold_out, column, own)
    errors: dict[str, Array] = {}
    if reason:
        skipped.append(f"hold-out: {reason}")
    else:
        blind, failed = _fit_each(runs.only(~out), fits, residual, 0, seed)
        skipped += [f"hold-out of {text}" for text in failed]
        errors = {form: _errors(fit, runs.only(out & own)) for form, fit in blind.items()}
    ordered = dict(sorted(fits.items(), key=lambda item: item[1].aicc))
    unknown = np.array([np.nan])
    laws = [
        Compared.of(fit, _errors(fit, runs), errors.get(form, unknown))
        for form, fit in ordered.items()
    ]
    compared = LawComparison(
        model=runs.model,
        n_points=len(runs.cells),
        held_out=held,
        laws=with_weights(laws, tuple(ordered.values())),
        fits=tuple(ordered.values()),
        skipped=tuple(skipped),
    )
    return compared.with_warnings(runs.merged)


def _largest(
    runs: ExpertRuns, hold_out: HoldOut, column: str, own: pd.Series
) -> tuple[str, pd.Series, str]:
    """Runs that are held out, in words and by number, and why none is, if so."""
    none = pd.Series(False, index=runs.cells.index)
    if hold_out == "cells":
        compute = runs.cells["budget"]
        if compute.isna().any():
            compute = runs.cells[runs.size_name] * runs.cells["n_tokens"]
        if compute.isna().any():
            return "nothing", none, "neither budget nor n_tokens of each run is known"
        out = none.copy()
        out[own] = largest(compute[own].to_numpy(dtype=np.float64), _CELLS)
        if not out.any():
            return "nothing", none, "most runs have the same compute, the most"
        out |= compute >= compute[out].min()  # the baseline's likewise
        return f"the {(out & own).sum()} runs of the most compute", out, ""
    values = np.sort(runs.cells.loc[own, column].dropna().unique())
    if len(values) < 3:  # two left, or there is no trend to extend
        return "nothing", none, f"{len(values)} values of {column}, and it needs 3"
    out = (runs.cells[column] == values[-1]).fillna(False).astype(bool)
    return f"{column} = {values[-1]:.4g}, the largest", out, ""


def _edges(runs: ExpertRuns) -> list[Edge]:
    """Largest sizes, and most experts, that laws are fitted without as well."""
    values = {
        name: runs.cells[column].to_numpy(dtype=np.float64)
        for name, column in (("size", runs.size_name), ("experts", "n_experts"))
        if column in runs.cells and runs.cells[column].notna().all()
    }
    return find_edges(values, dict.fromkeys(values, (_CELLS, 2 * _CELLS)))


def _fit_each(
    runs: ExpertRuns,
    forms: Iterable[str],
    residual: Residual,
    n_draws: int,
    seed: int,
    cluster: str | None = None,
    edges: Sequence[Edge] = (),
) -> tuple[dict[str, ExpertLawFit], list[str]]:
    """Forms that can be fitted, and why the others can't."""
    fits, failed = {}, []
    for form in forms:
        try:
            how: dict[str, Any] = {"residual": residual, "cluster": cluster, "edges": edges}
            fits[form] = fit_runs(runs, form, **how, n_draws=n_draws, seed=seed)
        except FitError as error:
            failed.append(f"{form}: {error}")
    return fits, failed


def _errors(fit: ExpertLawFit, runs: ExpertRuns) -> Array:
    """predicted - measured, nats/token."""
    return fit.loss_at(runs.given(fit.form_name)) - runs.loss
