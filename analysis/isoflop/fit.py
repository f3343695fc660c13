"""IsoFLOP curves ("Approach 2"): at each budget the best size, and how it grows with compute.

Hoffmann 2022 (arXiv:2203.15556) §3.2: a parabola of the loss in the logarithm of the size. Porian
2024 (arXiv:2406.19146): Akima interpolation of the logarithms, its lowest point on a grid.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.fitting.checks import positive
from analysis.fitting.intervals import Array, t_quantile
from analysis.fitting.status import FitError, FitStatus
from analysis.fitting.text import pluralize
from analysis.isoflop.curves import IsoFLOPCurve, IsoFLOPFit, NoCurveError
from analysis.isoflop.laws import LOSS, Optima, fit_laws
from analysis.isoflop.minima import (
    METHODS,
    Method,
    Parabola,
    akima_intervals,
    akima_minimum,
    check_minimum,
    fit_parabola,
    nearest,
    redrawn_minima,
    resampled_minima,
)
from analysis.table.load import best_of_cells, require

X_NAMES = ("n_params", "n_active_params", "n_non_embedding_params", "n_tokens")
_LOCAL = 5  # sizes about the best that a parabola describes
_OWN_DOF = 3  # fewer leave a scatter that is mostly luck
_KNOWN = 1_000_000  # degrees of freedom of a noise that was given: the normal distribution


def fit_isoflop(
    table: pd.DataFrame,
    x: str = "n_params",
    method: Method = "parabola",
    n_nearest: int | None = None,
    *,
    noise: float | None = None,
    n_draws: int = 500,
    seed: int = 0,
) -> IsoFLOPFit:
    """A curve for each model (`series`) and budget of the table's finished runs, and their laws.

    x: the size on the axis, one of X_NAMES. n_nearest: fit only the sizes nearest to the best, on
    the log scale. noise: the standard deviation of a run's loss in nats, if known from seeds; else
    the scatter about the parabolas, a curve's own where it has six sizes or more, else pooled
    over the model's budgets; it holds their misfit too.
    Of several runs of one cell (model, budget, size) the best learning rate is taken, never a mean
    over them. A minimum with warnings has flags; one outside the sizes, or
    at an end of them by interpolation, is excluded from the power laws, which report how many
    minima they use. Raises FitError if no curve has three sizes.
    """
    if x not in X_NAMES:
        raise ValueError(f"x={x!r} is not one of {', '.join(X_NAMES)}")
    if method not in METHODS:
        raise ValueError(f"method={method!r} is not one of {', '.join(METHODS)}")
    if n_nearest is not None and n_nearest < 3:
        raise ValueError(f"n_nearest={n_nearest} must be 3 or more: a parabola has 3 parameters")
    if noise is not None:
        positive("noise", noise)
    require(table, ["budget", x], "fit_isoflop")
    cells = best_of_cells(table, by=["series", "budget", x])
    points, skipped = _points(cells, x, method, n_nearest)
    if not points:
        raise NoCurveError(skipped)
    rng = np.random.default_rng(seed)
    curves: list[IsoFLOPCurve] = []
    laws = []
    unfitted = {}
    for model in dict.fromkeys(p.model for p in points):
        own = [p for p in points if p.model == model]
        found = [
            _Minimum.of(p, method, scatter, n_draws, rng)
            for p, scatter in zip(own, _noise_of(own, noise), strict=True)
        ]
        fitted = [m.curve(x, method) for m in found]
        curves += fitted
        inside = [i for i, c in enumerate(fitted) if c.inside]
        excluded = [f"C={c.budget:.3g} ({c.why_excluded})" for c in fitted if not c.inside]
        kept = [fitted[i] for i in inside]
        flagged = [f"C={c.budget:.3g} ({', '.join(c.flags)})" for c in kept if c.flags]
        try:
            optima = _optima([found[i] for i in inside], kept, x)
            laws.append(fit_laws(model, optima, excluded, flagged))
        except FitError as error:
            why = f"; excluded: {'; '.join(excluded)}" if excluded else ""
            unfitted[model] = f"{error}{why}"
    return IsoFLOPFit(
        x_name=x,
        method=method,
        n_nearest=n_nearest,
        curves=tuple(curves),
        laws=tuple(laws),
        skipped=tuple(skipped),
        notes=tuple(table.attrs.get("notes", ())),
        unfitted=unfitted,
    )


class _Noise(NamedTuple):
    """Standard deviation of a loss about its curve in nats, and its degrees of freedom."""

    sd: float
    dof: int


@dataclass(frozen=True, kw_only=True)
class _Points:
    """What one curve is fitted to, in order of size."""

    model: str
    budget: float
    u: Array
    losses: Array
    others: Mapping[str, Array]  # ln of the other sizes, where the table has them
    parabola: Parabola
    scatter: Array  # residuals of a parabola, which estimate the noise


def _points(
    cells: pd.DataFrame, x: str, method: Method, n_nearest: int | None
) -> tuple[list[_Points], list[str]]:
    points, skipped = [], []
    for (model, budget), runs in cells.groupby(["series", "budget"], sort=True):
        runs = runs.sort_values(x)
        if len(runs) < 3:
            found = pluralize(len(runs), "size")
            skipped.append(f"{model} at C={budget:.3g}: {found}, and a parabola needs 3")
            continue
        sizes = runs[x].to_numpy(dtype=np.float64)
        losses = runs["loss"].to_numpy(dtype=np.float64)
        keep = nearest(np.log(sizes), losses, n_nearest)
        others = {
            name: np.log(runs[name].to_numpy(dtype=np.float64))[keep]
            for name in X_NAMES
            if name != x and name in runs and runs[name].notna().all()
        }
        u, losses = np.log(sizes)[keep], losses[keep]
        parabola = fit_parabola(u, losses)
        scatter = parabola.residuals
        if method == "akima":  # it follows what a parabola misses, except near the best
            near = nearest(u, losses, _LOCAL)
            scatter = fit_parabola(u[near], losses[near]).residuals
        points.append(
            _Points(
                model=str(model),
                budget=float(budget),  # type: ignore[arg-type]
                u=u,
                losses=losses,
                others=others,
                parabola=parabola,
                scatter=scatter,
            )
        )
    return points, skipped


def _noise_of(points: Sequence[_Points], given: float | None) -> list[_Noise]:
    """Of each curve of a model: its own scatter, or of few points all the model's."""
    if given is not None:
        return [_Noise(given, _KNOWN)] * len(points)
    squares = [float(p.scatter @ p.scatter) for p in points]
    free = [len(p.scatter) - 3 for p in points]
    total = sum(free)
    pooled = _Noise(float(np.sqrt(sum(squares) / total)) if total else float("nan"), total)
    return [
        _Noise(float(np.sqrt(q / f)), f) if f >= _OWN_DOF else pooled
        for q, f in zip(squares, free, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class _Minimum:
    """A curve's minimum with its draws; u and losses on the log and plain scale."""

    points: _Points
    u_opt: float
    loss_opt: float
    at_end: bool
    noise: _Noise
    u_interval: tuple[float, float]
    loss_interval: tuple[float, float]
    draws: Mapping[str, tuple[Array, Array]]

    @staticmethod
    def of(
        points: _Points, method: Method, noise: _Noise, n_draws: int, rng: np.random.Generator
    ) -> "_Minimum":
        u, losses, parabola = points.u, points.losses, points.parabola
        if method == "akima":
            place, value, end = akima_minimum(u, losses[None])
            u_opt, loss_opt, at_end = float(place[0]), float(value[0]), bool(end[0])
        else:
            u_opt, loss_opt, at_end = parabola.u_opt, parabola.loss_opt, False
        draws = {"case": resampled_minima(u, losses, method, n_draws, rng)}
        if np.isfinite(noise.sd):
            draws["noise"] = redrawn_minima(u, losses, method, noise.sd, n_draws, rng)
        sd, t = noise.sd, t_quantile(noise.dof, 0.95)
        if method == "akima":
            own = np.random.default_rng(int(rng.integers(2**32)))
            u_interval, loss_interval = akima_intervals(u, losses, sd, t, n_draws, own)
        else:
            u_interval = parabola.u_interval(sd, t)
            loss_interval = parabola.loss_interval(sd, t)
        return _Minimum(
            points=points,
            u_opt=u_opt,
            loss_opt=loss_opt,
            at_end=at_end,
            noise=noise,
            u_interval=u_interval,
            loss_interval=loss_interval,
            draws=draws,
        )

    def curve(self, x: str, method: Method) -> IsoFLOPCurve:
        p, parabola = self.points, self.points.parabola
        flagged = check_minimum(p.u, p.losses, parabola, self.u_opt, method, self.u_interval)
        return IsoFLOPCurve(
            model=p.model,
            budget=p.budget,
            x_name=x,
            method=method,
            n_points=len(p.u),
            sizes=tuple(np.exp(p.u).tolist()),
            losses=tuple(p.losses.tolist()),
            x_opt=float(np.exp(self.u_opt)),
            x_interval=(float(np.exp(self.u_interval[0])), float(np.exp(self.u_interval[1]))),
            loss_opt=float(self.loss_opt),
            loss_interval=self.loss_interval,
            inside=bool(p.u[0] <= self.u_opt <= p.u[-1]) and not self.at_end,
            at_optimum={
                name: float(np.exp(_along(p.u, values, np.array([self.u_opt]))[0]))
                for name, values in p.others.items()
            },
            centre=parabola.centre,
            a=parabola.a,
            slope=parabola.slope,
            level=parabola.level,
            rmse=parabola.rmse,
            noise=self.noise.sd,
            dof=self.noise.dof,
            unscaled=tuple(tuple(row) for row in parabola.unscaled.tolist()),
            flags=tuple(flag for flag, _ in flagged),
            status=FitStatus.WARNING if flagged else FitStatus.CONVERGED,
            warnings=tuple(text for _, text in flagged),
        )


def _along(u: Array, values: Array, u_opt: Array) -> Array:
    """Another size at u_opt, both logarithms: linear between the runs, nan outside them."""
    inside = (u_opt >= u[0]) & (u_opt <= u[-1])
    return np.where(inside, np.interp(u_opt, u, values), np.nan)


def _optima(found: Sequence[_Minimum], curves: Sequence[IsoFLOPCurve], x: str) -> Optima:
    """What the laws are fitted to: the size, the others along the curves, and the loss."""
    names = [name for name in X_NAMES if all(name == x or name in c.at_optimum for c in curves)]
    at = {
        name: np.array([c.x_opt if name == x else c.at_optimum[name] for c in curves])
        for name in names
    }
    at[LOSS] = np.array([c.loss_opt for c in curves])
    draws: dict[str, dict[str, Array]] = {}
    hows = [how for how in ("noise", "case") if found and all(how in m.draws for m in found)]
    for how in hows:
        places = [m.draws[how][0] for m in found]
        draws[how] = {
            name: np.exp(
                np.stack(
                    [
                        u if name == x else _along(m.points.u, m.points.others[name], u)
                        for m, u in zip(found, places, strict=True)
                    ],
                    axis=1,
                )
            )
            for name in names
        }
        draws[how][LOSS] = np.stack([m.draws[how][1] for m in found], axis=1)
    budgets = np.array([c.budget for c in curves])
    return Optima(budgets=budgets, at=at, draws=draws)
