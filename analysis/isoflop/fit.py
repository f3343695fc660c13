"""IsoFLOP curves ("Approach 2"): at each budget the best size, and how it grows with compute.

Hoffmann 2022 (arXiv:2203.15556) §3.2: a parabola of the loss in the logarithm of the size; by
default a skewed curve instead (slices.py), for a parabola's minimum is off where the sizes reach
far. Porian 2024 (arXiv:2406.19146): Akima interpolation of the logarithms, its lowest point on a
grid.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.fitting.checks import positive
from analysis.fitting.clusters import cluster_codes, drawn_counts, joined
from analysis.fitting.intervals import Array
from analysis.fitting.power_law import FrontierFit, fit_frontier
from analysis.fitting.status import FitError, FitStatus
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit, NoCurveError
from analysis.isoflop.flags import Flag, check_minimum
from analysis.isoflop.lack_of_fit import lack_of_fit
from analysis.isoflop.laws import LOSS, Optima, fit_laws
from analysis.isoflop.left_out import NEEDED, OutlierRun, TooFew
from analysis.isoflop.methods import METHODS, OUTLIERS, Method, Outliers
from analysis.isoflop.minima import Minima, Minimum, Points, find_minima
from analysis.isoflop.misfit import off_curves, too_skewed
from analysis.isoflop.offsets import at_budgets
from analysis.isoflop.resample import nearest
from analysis.isoflop.shape import SAME
from analysis.isoflop.shared import error_of_budgets
from analysis.isoflop.slices import Seeds
from analysis.table.load import best_of_cells, finished, require
from analysis.table.trunks import shared_trunk
from analysis.table.warned import warned

_LABEL = "cluster label"
X_NAMES = ("n_params", "n_active_params", "n_non_embedding_params", "n_tokens")


@warned()
def fit_isoflop(
    table: pd.DataFrame,
    x: str = "n_params",
    method: Method = "slice",
    n_nearest: int | None = None,
    *,
    noise: float | None = None,
    cluster: str | None = None,
    outliers: Outliers = "exclude",
    n_draws: int = 500,
    seed: int = 0,
) -> IsoFLOPFit:
    """A curve for each model (`series`) and budget of the table's finished runs, and their laws.

    x: the size on the axis, one of X_NAMES. method: "slice", skewed curves whose two exponents the
    budgets of a model share; "parabola"; "akima", interpolation. n_nearest: fit only the sizes
    nearest to the best, on the log scale. noise: the standard deviation of a run's loss in nats, if
    it is known apart from the table; else by the scatter about the curves and that of seeds about
    their means, unless the first is significantly larger: then by the first alone, which holds the
    misfit too. Slices of one model share what each of them lacks (scatter.py); of other methods it
    is a curve's own, or of fewer than six sizes all curves'. A mean over seeds weighs as many
    points, where seeds and curves agree. outliers: "exclude" runs from slices that the model's
    others do not expect (outliers.py), or "keep" them; they are named either way. n_draws: of
    slices' and interpolation's intervals, and of the laws'. cluster: a column; runs that share its
    value, e.g. checkpoints of one run at several budgets, are drawn together for the intervals of
    the laws, which then have "cluster" in place of "case". By default the trunk, where runs are
    branches of shared ones.
    Where runs counted their own FLOPs, losses are moved to the budget's (at_budgets).
    Of several runs of one cell (model, budget, size) the best learning rate is taken, never a mean
    over them. A minimum with warnings has flags; one outside the sizes, or
    at an end of them by interpolation, is excluded from the power laws, which report how many
    minima they use. Raises FitError if no curve has three sizes.
    """
    if x not in X_NAMES:
        raise ValueError(f"x={x!r} is not one of {', '.join(X_NAMES)}")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if outliers not in OUTLIERS:
        raise ValueError(f"outliers={outliers!r} is not one of {', '.join(OUTLIERS)}")
    if n_nearest is not None and n_nearest < 3:
        raise ValueError(f"n_nearest={n_nearest} must be 3 or more: a parabola has 3 parameters")
    if noise is not None:
        positive("noise", noise)
    require(table, ["budget", x], "fit_isoflop")
    at = at_budgets(table, x)
    cells = best_of_cells(at.table, by=["series", "budget", x])
    cluster = cluster or shared_trunk(table)
    if cluster is not None:
        cells = cells.assign(**{_LABEL: _labels(at.table, cells, x, cluster)})
    points, too_few = _points(cells, x, n_nearest)
    if not points:
        raise NoCurveError(too_few)
    rng = np.random.default_rng(seed)
    curves: list[IsoFLOPCurve] = []
    laws = []
    unfitted = {}
    seeds = {}
    odd: list[OutlierRun] = []
    for model in dict.fromkeys(p.model for p in points):
        own = [p for p in points if p.model == model]
        clusters = _find_clusters(own)
        counts = _drawn_together(own, clusters, n_draws, seed)
        minima = find_minima(own, method, noise, n_draws, rng, counts, outliers == "exclude")
        odd_ones = _outlier_runs(own, minima, outliers == "exclude")
        odd += [run for runs in odd_ones for run in runs]
        found = minima.found
        frontier = _frontier([m for m in found if m.inside])
        if minima.seeds is not None:
            seeds[model] = minima.seeds
        fitted = [
            _curve(minimum, x, method, [*off, *((Flag.OUTLIER, str(run)) for run in runs)])
            for minimum, off, runs in zip(
                found, _found_off(minima, method, noise, frontier), odd_ones, strict=True
            )
        ]
        curves += fitted
        inside = [i for i, c in enumerate(fitted) if c.inside]
        excluded = [f"C={c.budget:.3g} ({c.why_excluded})" for c in fitted if not c.inside]
        kept = [fitted[i] for i in inside]
        flagged = [f"C={c.budget:.3g} ({', '.join(c.flags)})" for c in kept if c.flags]
        try:
            optima = _optima([found[i] for i in inside], kept, x)
            laws.append(fit_laws(model, optima, excluded, flagged, clusters, frontier))
        except FitError as error:
            why = f"; excluded: {'; '.join(excluded)}" if excluded else ""
            unfitted[model] = f"{error}{why}"
    return IsoFLOPFit(
        x_name=x,
        method=method,
        n_nearest=n_nearest,
        curves=tuple(curves),
        laws=tuple(laws),
        too_few=tuple(too_few),
        moved=at.how,
        notes=tuple(table.attrs.get("notes", ())),
        unfitted=unfitted,
        seeds=seeds,
        outliers=tuple(odd),
    )


def _outlier_runs(
    points: Sequence[Points], minima: Minima, excluded: bool
) -> list[list[OutlierRun]]:
    """Those of each curve."""
    return [
        [
            OutlierRun(
                model=p.model,
                budget=p.budget,
                size=float(np.exp(p.u[one.point])),
                loss=float(p.losses[one.point]),
                off=one.off,
                chance=one.chance,
                excluded=excluded,
            )
            for one in own
        ]
        for p, own in zip(points, minima.outliers, strict=True)
    ]


def _labels(table: pd.DataFrame, cells: pd.DataFrame, x: str, cluster: str) -> np.ndarray:
    """Cluster of each cell, by all its runs."""
    keys = ["series", "budget", x]
    cell = cells[keys].reset_index(names="cell")
    runs = finished(table).merge(cell, on=keys)
    return joined(runs["cell"], runs[cluster])


def _points(
    cells: pd.DataFrame, x: str, n_nearest: int | None
) -> tuple[list[Points], list[TooFew]]:
    points, too_few = [], []
    for (model, budget), runs in cells.groupby(["series", "budget"], sort=True):
        runs = runs.sort_values(x)
        u = np.log(runs[x].to_numpy(dtype=np.float64))
        losses = runs["loss"].to_numpy(dtype=np.float64)
        keep = nearest(u, losses, n_nearest) if len(u) >= NEEDED else np.arange(len(u))
        n_sizes = 1 + int((np.diff(u[keep]) > SAME).sum())
        if n_sizes < NEEDED:
            too_few.append(TooFew(model=str(model), budget=float(budget), n_sizes=n_sizes))  # type: ignore[arg-type]
            continue
        others = {
            name: np.log(runs[name].to_numpy(dtype=np.float64))[keep]
            for name in X_NAMES
            if name != x and name in runs and runs[name].notna().all()
        }
        u, losses, seeds = u[keep], losses[keep], _seeds(runs.iloc[keep])
        points.append(
            Points(
                model=str(model),
                budget=float(budget),  # type: ignore[arg-type]
                u=u,
                losses=losses,
                seeds=seeds,
                others=others,
                labels=runs[_LABEL].to_numpy()[keep] if _LABEL in runs else None,
            )
        )
    return points, too_few


def _seeds(cells: pd.DataFrame) -> Seeds:
    n = cells["n_seeds"].to_numpy(dtype=np.float64)
    sd = cells["loss_sd"].to_numpy(dtype=np.float64)
    return Seeds(weights=n, variances=np.where(n > 1, sd, 0.0) ** 2, free=n - 1)


def _find_clusters(points: Sequence[Points]) -> np.ndarray | None:
    labels = [p.labels for p in points if p.labels is not None]
    every = np.concatenate(labels) if labels else None
    return None if every is None else cluster_codes(every, len(every))


def _drawn_together(
    points: Sequence[Points], clusters: np.ndarray | None, n_draws: int, seed: int
) -> Sequence[Array | None]:
    """How often each point was drawn with its cluster, curve by curve (n_draws, n)."""
    if clusters is None:
        return [None] * len(points)
    ends = np.cumsum([len(p.u) for p in points])[:-1]
    counts = drawn_counts(len(clusters), n_draws, np.random.default_rng(seed), clusters)
    return np.split(counts, ends, axis=1)


def _curve(
    found: Minimum, x: str, method: Method, found_off: Sequence[tuple[Flag, str]]
) -> IsoFLOPCurve:
    p, shape = found.points, found.shape
    flagged = check_minimum(p.u, p.losses, shape, found.u_opt, method, found.u_interval, found_off)
    inside = found.inside and not found.at_end
    place = np.array([found.u_opt if inside else np.nan])
    return IsoFLOPCurve(
        model=p.model,
        budget=p.budget,
        x_name=x,
        method=method,
        n_points=len(p.u),
        sizes=tuple(np.exp(p.u).tolist()),
        losses=tuple(p.losses.tolist()),
        x_opt=float("nan") if found.at_end else float(np.exp(found.u_opt)),
        x_interval=(float(np.exp(found.u_interval[0])), float(np.exp(found.u_interval[1]))),
        loss_opt=float("nan") if found.at_end else float(found.loss_opt),
        loss_interval=found.loss_interval,
        inside=inside,
        at_optimum={
            name: float(np.exp(_along(p.u, values, place)[0])) for name, values in p.others.items()
        },
        centre=shape.centre,
        a=shape.a,
        slope=shape.slope,
        level=shape.level,
        alpha=shape.alpha,
        beta=shape.beta,
        rmse=shape.rmse,
        noise=found.noise.sd,
        dof=found.noise.dof,
        unscaled=tuple(tuple(row) for row in shape.unscaled.tolist()),
        draws=found.slice_draws,
        flags=tuple(flag for flag, _ in flagged),
        status=FitStatus.WARNING if flagged else FitStatus.CONVERGED,
        warnings=tuple(text for _, text in flagged),
    )


def _found_off(
    minima: Minima, method: Method, noise: float | None, frontier: FrontierFit | None
) -> list[list[tuple[Flag, str]]]:
    """Misfit of each curve's points beside the noise."""
    if method == "akima":  # it goes through them
        return [[] for _ in minima.found]
    off = [
        [(Flag.MISFIT, text)] if text else []
        for text in off_curves([m.shape for m in minima.found], noise)
    ]
    return [[*own, *_of_all(minima, noise, frontier)] for own in off]


def _of_all(
    minima: Minima, noise: float | None, frontier: FrontierFit | None
) -> list[tuple[Flag, str]]:
    """Misfit that all curves share."""
    found = []
    if minima.seeds is not None and minima.seeds.is_lack:
        beside = f"{minima.seeds} (p={minima.seeds.chance:.1g}): the curves miss what runs share"
        found.append((Flag.LACK_OF_FIT, beside))
    if minima.slice_squares is not None:
        text = too_skewed(minima.likeliest, minima.slice_squares, noise)
        return [*found, (Flag.SKEWED, text)] if text else found
    points = [m.points for m in minima.found]
    lack = lack_of_fit(
        minima.likeliest,
        [m.noise for m in minima.found],
        [p.u for p in points],
        [p.budget for p in points],
    )
    sizes = minima.sizes
    if sizes is not None and (lack is None or sizes.chance < lack[1]):
        found.append((Flag.SHARED, str(sizes)))
    elif lack is not None:
        found.append((Flag.LACK_OF_FIT, lack[0]))
    inside = [m for m in minima.found if m.inside]
    text = None if frontier is None else _error_of_budgets(inside, frontier)
    return [*found, (Flag.SHARED, text)] if text else found


def _frontier(found: Sequence[Minimum]) -> FrontierFit | None:
    """Law of these minima's losses; None below four."""
    if len(found) < 4:
        return None
    shared = [m.common[1] for m in found if m.common is not None]
    return fit_frontier(
        [m.points.budget for m in found],
        [m.loss_opt for m in found],
        common=_covariance(np.log(np.stack(shared, axis=1))) if len(shared) == len(found) else None,
    )


def _error_of_budgets(found: Sequence[Minimum], law: FrontierFit) -> str | None:
    errors = [m.shape.loss_error(np.array([m.u_opt]), m.noise.sd)[0] for m in found]
    covariance = np.diag(np.square(errors))
    shared = [m.common[1] for m in found if m.common is not None]
    if len(shared) == len(found) and len(shared[0]):
        covariance += _covariance(np.stack(shared, axis=1))
    return error_of_budgets(
        law,
        np.array([m.points.budget for m in found]),
        np.array([m.loss_opt for m in found]),
        covariance,
        int(np.mean([m.noise.dof for m in found])),
    )


def _along(u: Array, values: Array, u_opt: Array) -> Array:
    """Another size at u_opt, both logarithms: linear between the runs, and on beyond them."""
    k = np.clip(np.searchsorted(u, u_opt) - 1, 0, len(u) - 2)
    return values[k] + (values[k + 1] - values[k]) / (u[k + 1] - u[k]) * (u_opt - u[k])


def _optima(found: Sequence[Minimum], curves: Sequence[IsoFLOPCurve], x: str) -> Optima:
    """What the laws are fitted to: the size, the others along the curves, and the loss."""
    names = [name for name in X_NAMES if all(name == x or name in c.at_optimum for c in curves)]
    at = {
        name: np.array([c.x_opt if name == x else c.at_optimum[name] for c in curves])
        for name in names
    }
    at[LOSS] = np.array([c.loss_opt for c in curves])
    draws = {
        how: _of_draws([m.draws[how] for m in found], found, names, x)
        for how in ("noise", "case", "cluster")
        if found and all(how in m.draws for m in found)
    }
    shared = [m.common for m in found if m.common is not None]
    common = _of_draws(shared, found, names, x) if found and len(shared) == len(found) else {}
    return Optima(
        budgets=np.array([c.budget for c in curves]),
        at=at,
        draws=draws,
        common={name: _covariance(np.log(values)) for name, values in common.items()},
    )


def _of_draws(
    minima: Sequence[tuple[Array, Array]],
    found: Sequence[Minimum],
    names: Sequence[str],
    x: str,
) -> dict[str, Array]:
    """Name -> (S, n_budgets), from minima (S,) of u and of losses for each budget."""
    drawn = {
        name: np.exp(
            np.stack(
                [
                    u if name == x else _along(m.points.u, m.points.others[name], u)
                    for m, (u, _) in zip(found, minima, strict=True)
                ],
                axis=1,
            )
        )
        for name in names
    }
    return {**drawn, LOSS: np.stack([losses for _, losses in minima], axis=1)}


def _covariance(values: Array) -> Array:
    """Between the columns of values (S, n), over the rows that are whole; 0 without two."""
    whole = values[np.isfinite(values).all(axis=1)]
    n = values.shape[1]
    return np.cov(whole, rowvar=False).reshape(n, n) if len(whole) > 1 else np.zeros((n, n))
