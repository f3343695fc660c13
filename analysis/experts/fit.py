"""Laws of the loss against the number of experts, fitted to a table of runs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

from analysis.experts.law import ExpertLawFit
from analysis.experts.runs import BACKBONE, ExpertRuns, choose_runs
from analysis.fitting.checks import check_level
from analysis.fitting.edges import Edge
from analysis.fitting.intervals import t_quantile
from analysis.fitting.status import FitError
from analysis.laws.fit import fit_law
from analysis.laws.forms import OF_EXPERTS
from analysis.laws.result import Residual
from analysis.table.warned import warned


@warned(by_cell=False)  # choose_runs refuses what its form does not distinguish
def fit_expert_law(
    table: pd.DataFrame,
    form: str = "power_floor",
    *,
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    residual: Residual = "log",
    cluster: str | None = None,
    n_draws: int = 500,
    seed: int = 0,
) -> ExpertLawFit:
    """Fits a law of ln L to one model's finished runs, the best of each (size, experts, budget).

    residual: least squares of ln L ("log"), or of L in nats/token ("loss"). model: which of the
    table's; needed if it has several. baseline: a model whose runs count as E = 1, e.g. dense in
    Clark's laws; none for PEER, whose one expert is not the dense layer. size: the column that is
    N, that of the model without its experts; by default what backbone_params finds. Only the laws
    without E, of granularity and of sparsity, may be in n_params, which counts the experts, as
    Krajewski's and Abnar's N do. n_draws: of the bootstrap, of runs, or of all that share a
    value of the column `cluster`. Seeds count as runs. What one size or one token count does not
    identify is fixed; see the warnings. Raises ValueError for a table
    that mixes what the law does not distinguish, FitError for too few runs, or too few distinct
    sizes, numbers of experts, token counts, granularities or sparsities. For the laws in several of
    these it names the parameters that are not identifiable, and is raised too where one variable
    follows from the others, e.g. at a fixed number of tokens per parameter.
    """
    by = [cluster] if cluster else []
    runs = choose_runs(table, [form], model=model, baseline=baseline, size=size, by=by)
    fit = fit_runs(runs, form, residual=residual, cluster=cluster, n_draws=n_draws, seed=seed)
    return fit.with_warnings(runs.merged)


def fit_runs(
    chosen: ExpertRuns,
    form: str,
    *,
    residual: Residual = "log",
    cluster: str | None = None,
    edges: Sequence[Edge] = (),
    n_draws: int,
    seed: int,
) -> ExpertLawFit:
    """fit_expert_law on runs that were chosen, so that several forms have the same; edges: as of
    fit_law.
    """
    law, at = OF_EXPERTS[form], chosen.given(form)
    more = {
        "model": chosen.model,
        "baseline": chosen.baseline,
        "size_name": chosen.size_name,
        "sizes": tuple(np.unique(at.N).tolist()),
        "experts": tuple(np.unique(at.E).tolist()),
    }
    try:
        return fit_law(
            ExpertLawFit,
            law,
            at,
            chosen.loss,
            residual=residual,
            groups=None if cluster is None else chosen.cells[cluster],
            edges=edges,
            n_draws=n_draws,
            seed=seed,
            notes=[chosen.note] if chosen.note and "D" not in law.variables else [],
            more=more,
        )
    except FitError as error:
        raise FitError(f"{chosen.model}: {error}") from None


def size_slopes(
    table: pd.DataFrame,
    *,
    model: str | None = None,
    baseline: str | None = None,
    size: str = BACKBONE,
    level: float = 0.95,
) -> pd.DataFrame:
    """-d ln L / d ln E at each size and budget by a straight line, with Student's t interval.

    No law is assumed. Columns: size, budget (FLOPs, NA if unknown), slope, lower, upper, n_experts
    (distinct numbers), n_runs, rmse of ln L. Runs of one size and one n_tokens are of one budget,
    their mean: the routers of more experts cost more. Where there is one number of experts there is
    no row.
    """
    check_level(level)
    runs = choose_runs(table, ["loglinear"], model=model, baseline=baseline, size=size)
    sizes = runs.cells.groupby(size)
    one = sizes["n_tokens"].transform("nunique") == 1
    budget = runs.cells["budget"].where(~one, sizes["budget"].transform("mean"))
    rows = []
    for (N, C), own in runs.cells.groupby([runs.cells[size], budget], dropna=False):
        x, y = np.log(own["n_experts"].to_numpy(np.float64)), np.log(own["loss"].to_numpy())
        numbers = len(np.unique(x))
        if numbers < 2:
            continue
        line = stats.linregress(x, y)
        half = t_quantile(len(x) - 2, level) * line.stderr
        rmse = np.sqrt(np.mean((y - line.intercept - line.slope * x) ** 2))
        bounds = -line.slope, -line.slope - half, -line.slope + half
        rows.append((N, C, *bounds, numbers, len(x), rmse))
    names = ["size", "budget", "slope", "lower", "upper", "n_experts", "n_runs", "rmse"]
    return pd.DataFrame(rows, columns=names)
