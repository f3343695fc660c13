"""What a law leaves over, run by run: ln(measured loss) - ln(fitted loss)."""

import numpy as np
import pandas as pd

from analysis.curves import IsoFLOPFit
from analysis.experts import BACKBONE, ExpertLawFit, backbone_params
from analysis.parametric import ParametricFit
from analysis.table import best_of_cells, finished

_CONTEXT = ("series", "model", "budget", "n_params", "n_active_params", "n_tokens", "n_experts")


def residuals_of(
    fit: IsoFLOPFit | ParametricFit | ExpertLawFit, table: pd.DataFrame, size: str = "n_params"
) -> pd.DataFrame:
    """The finished runs with their `residual`; positive: worse than the law says.

    size: what a ParametricFit was given as N. An IsoFLOPFit's are of the best run of each cell;
    runs that the fit says nothing of are left out.
    """
    runs = finished(table)
    context = [name for name in _CONTEXT if name in runs]
    if isinstance(fit, IsoFLOPFit):
        parts = []
        cells = best_of_cells(runs, by=["series", "budget", fit.x_name])
        for curve in fit.curves:
            at = (cells["series"] == curve.model) & (cells["budget"] == curve.budget)
            own = cells[at & cells[fit.x_name].between(curve.x_min * 0.999, curve.x_max * 1.001)]
            predicted = curve.predict(own[fit.x_name].to_numpy(dtype=np.float64))
            parts.append(own[context].assign(residual=np.log(own["loss"] / predicted)))
        return pd.concat(parts, ignore_index=True)
    if isinstance(fit, ExpertLawFit):
        runs = runs.assign(**{BACKBONE: backbone_params(runs)})
        runs = runs[runs["model"] == fit.model]
        columns = [runs[fit.size_name], runs["n_experts"]]
        if fit.form_name == "granularity":
            known = "granularity" in runs
            G = runs["granularity"] if known else runs["n_heads"] * runs["top_k"]
            columns = [runs[fit.size_name], pd.Series(1.0, index=runs.index), runs["n_tokens"], G]
        predicted = fit.predict(*(c.to_numpy(dtype=np.float64) for c in columns)).value
    else:
        predicted = fit.loss(runs[size].to_numpy(np.float64), runs["n_tokens"].to_numpy(np.float64))
    return runs[context].assign(residual=np.log(runs["loss"] / predicted)).reset_index(drop=True)
