"""Residuals of a law, run by run: ln(measured loss) - ln(fitted loss)."""

import numpy as np
import pandas as pd

from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import find_rows, make_variables
from analysis.isoflop.curves import IsoFLOPFit
from analysis.isoflop.offsets import at_budgets
from analysis.parametric import ParametricFit
from analysis.table.load import best_of_cells, finished

_CONTEXT = ("series", "model", "budget", "n_params", "n_active_params", "n_tokens", "n_experts")


def compute_residuals(
    fit: IsoFLOPFit | ParametricFit | ExpertLawFit, table: pd.DataFrame, size: str = "n_params"
) -> pd.DataFrame:
    """Finished runs with their `residual`; positive: worse than the law says.

    size: what a ParametricFit was given as N. An IsoFLOPFit's are of the best run of each cell, an
    ExpertLawFit's of its model and its baseline, as E = 1; runs that the fit says nothing of are
    left out, e.g. without n_tokens where the law has a term for them.
    """
    runs = finished(table)
    context = [name for name in _CONTEXT if name in runs]
    if isinstance(fit, IsoFLOPFit):
        parts = []
        runs = finished(at_budgets(table, fit.x_name).table)
        cells = best_of_cells(runs, by=["series", "budget", fit.x_name])
        for curve in fit.curves:
            at = (cells["series"] == curve.model) & (cells["budget"] == curve.budget)
            own = cells[at & cells[fit.x_name].between(curve.x_min * 0.999, curve.x_max * 1.001)]
            predicted = curve.loss(own[fit.x_name].to_numpy(dtype=np.float64))
            parts.append(own[context].assign(residual=np.log(own["loss"] / predicted)))
        return pd.concat(parts, ignore_index=True)
    if isinstance(fit, ExpertLawFit):
        known = [fit.size_name, *fit.law.needs]
        runs = find_rows(table, fit.model, fit.baseline).dropna(subset=known)
        predicted = fit.loss_at(make_variables(runs, fit.form_name, fit.size_name))
    else:
        runs = runs.dropna(subset=[size, "n_tokens"])
        predicted = fit.loss(runs[size], runs["n_tokens"])
    return runs[context].assign(residual=np.log(runs["loss"] / predicted)).reset_index(drop=True)
