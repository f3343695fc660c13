"""Laws of the loss against the number of experts, fitted to a table of runs."""

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import pandas as pd
from scipy import stats

from analysis.experts.forms import FORMS
from analysis.experts.identify import (
    condition_of,
    find_warnings,
    refuse_few,
    refuse_singular,
)
from analysis.experts.law import ExpertLawFit, Residual
from analysis.experts.runs import BACKBONE, ExpertRuns, backbone_params, choose_runs
from analysis.fitting.checks import check_level
from analysis.fitting.clusters import cluster_codes, describe_draws, drawn_counts, few_clusters
from analysis.fitting.intervals import t_quantile
from analysis.fitting.least_squares import Minima, minimise
from analysis.fitting.power_sum import exponentiated

__all__ = [
    "BACKBONE",
    "ExpertLawFit",
    "FormName",
    "Residual",
    "akaike",
    "backbone_params",
    "fit_expert_law",
    "fit_runs",
    "size_slopes",
]

FormName = Literal[
    "loglinear", "power_floor", "clark", "clark_floor", "granularity", "granularity_experts",
    "sparsity", "joint",
]  # fmt: skip
_SAME = 1e-6
_MAX_STEPS = 10_000


def fit_expert_law(
    table: pd.DataFrame,
    form: FormName = "power_floor",
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
    return fit_runs(runs, form, residual=residual, cluster=cluster, n_draws=n_draws, seed=seed)


def fit_runs(
    chosen: ExpertRuns,
    form: FormName,
    *,
    residual: Residual = "log",
    cluster: str | None = None,
    n_draws: int,
    seed: int,
) -> ExpertLawFit:
    """fit_expert_law on runs that were chosen, so that several forms have the same."""
    if residual not in ("log", "loss"):
        raise ValueError(f"residual={residual!r} is neither 'log' nor 'loss'")
    spec, runs = FORMS[form], chosen.given(form)
    clusters = None if cluster is None else cluster_codes(chosen.cells[cluster], len(runs.loss))
    problem = spec.pose(runs)
    n, n_free = len(runs.loss), len(spec.names) - len(problem.fixed)
    refuse_few(chosen.model, spec, problem, runs)
    target = np.log(runs.loss)
    if residual == "loss":
        problem = replace(problem, model=exponentiated(problem.model))
        target = runs.loss
    descend = partial(minimise, problem.model, target, lower=problem.lower, upper=problem.upper)
    minima = descend(problem.starts)
    best = minima.best
    if spec.tells and not minima.converged[best]:
        # Where parameters trade off, a valley that not every start need go down to its end
        minima = _with_row(minima, best, descend(minima.theta[best][None], max_steps=_MAX_STEPS))
    theta, squares = minima.theta[best], 2 * float(minima.value[best])
    share = float((minima.value <= minima.value[best] * (1 + _SAME) + 1e-25).mean())
    condition = condition_of(spec, problem, minima)
    refuse_singular(chosen.model, spec, problem, minima, condition)
    warned = find_warnings(spec, problem, minima, share, condition)
    if chosen.note and "n_tokens" not in spec.needs:
        warned.add(chosen.note)
    if n < 2 * n_free:
        warned.add(f"{n} runs for {n_free} parameters: the intervals say little")
    for text in few_clusters(clusters):
        warned.add(text)
    counts = drawn_counts(n, n_draws, np.random.default_rng(seed), clusters)
    drawn = descend(np.repeat(theta[None], n_draws, axis=0), weights=counts)
    off = problem.model(theta[None])[0][0]
    off = (np.log(off) if residual == "loss" else off) - np.log(runs.loss)
    return ExpertLawFit(
        form=spec.formula,
        names=spec.names,
        estimates=tuple(problem.natural(theta[None])[0].tolist()),
        n_points=n,
        objective=float(minima.value[best]),
        interval=describe_draws(n_draws, clusters),
        status=warned.status,
        warnings=tuple(warned.texts),
        draws=problem.natural(drawn.theta),
        form_name=form,
        model=chosen.model,
        baseline=chosen.baseline,
        size_name=chosen.size_name,
        sizes=tuple(np.unique(runs.N).tolist()),
        experts=tuple(np.unique(runs.E).tolist()),
        fixed=problem.fixed,
        residual=residual,
        rmse=float(np.sqrt(np.mean(off**2))),
        scatter=float(np.sqrt(squares / (n - n_free))),
        dof=n - n_free,
        aicc=akaike(squares, n, n_free),
        share_at_best=share,
        n_starts=len(problem.starts),
        condition=condition,
    )


def _with_row(minima: Minima, row: int, other: Minima) -> Minima:
    """The same with the one minimum of `other` in this row."""
    columns = {}
    for name in ("theta", "value", "gradient", "converged", "at_bound"):
        column = getattr(minima, name).copy()
        column[row] = getattr(other, name)[0]
        columns[name] = column
    return Minima(**columns)


def akaike(squares: float, n: int, n_params: int) -> float:
    """AICc of a least-squares fit, the variance counted as a parameter; inf if n is too small."""
    k = n_params + 1
    if n <= k + 1:
        return float("inf")
    return float(n * np.log(max(squares, 1e-300) / n) + 2 * k + 2 * k * (k + 1) / (n - k - 1))


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
