"""How much more compute a baseline needs for the losses of other models, over compute and loss."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy import stats

from analysis import numbers
from analysis.fitting.checks import check_level, positive
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError
from analysis.fitting.text import join_first
from analysis.multiplier.profile import SLOPES, Profile, Slopes, fit_profile
from analysis.multiplier.result import ComputeMultipliers
from analysis.table.cells import best_of_cells
from analysis.table.checks import require

Points = tuple[ArrayLike, ArrayLike]
Asymptote = float | tuple[float, float] | None
_EXACT = 1e-9  # nats: points without scatter
_NO_FLOOR = 1e-3  # of the lowest loss: an asymptote that is not distinguishable from none


def compute_multipliers(
    points: Mapping[str, Points],
    baseline: str,
    *,
    asymptote: Asymptote = None,
    slopes: Slopes = "own",
    level: float = 0.95,
) -> ComputeMultipliers:
    """Of each other model over the baseline, from model -> (budgets in FLOPs, losses in
    nats/token), e.g. model -> IsoFLOPFit.frontier(model).

    The law of each is L = E + A C^-alpha, fitted by least squares of the loss. E belongs to the
    evaluation set, so one E holds for all: fitted unless a number or a range (lowest, highest) is
    given. slopes: "own": an alpha for each model; "one": one for all. Intervals are from the
    points' scatter about the laws, pooled over the models, with the laws' misfit; they hold for
    every E that an F test does not exclude. A model whose losses do not fall over two budgets is
    skipped. Raises ValueError naming what is out of range; FitError if the baseline or all others
    are skipped, or there are too few points to fit E.
    """
    check_level(level)
    if slopes not in SLOPES:
        raise ValueError(f"slopes={slopes!r} is not one of {', '.join(SLOPES)}")
    if baseline not in points:
        raise ValueError(f"baseline={baseline!r} is not one of {', '.join(points) or 'none'}")
    arms = {name: _arm(name, *given) for name, given in points.items()}
    skipped = {name: why for name, arm in arms.items() if (why := _unusable(*arm))}
    if baseline in skipped:
        raise FitError(f"{baseline}: {skipped[baseline]}")
    arms = {name: arm for name, arm in arms.items() if name not in skipped}
    if len(arms) < 2:
        why = "; ".join(f"{name}: {why}" for name, why in skipped.items())
        why = why or "there are points of no other; isoflop says which curves have too few sizes"
        raise FitError(f"no model to compare with {baseline}: {why}")
    every = np.concatenate([losses for _, losses in arms.values()])
    lowest, highest = _range(asymptote, float(every.min()))
    p = fit_profile(list(arms), list(arms.values()), slopes, lowest, highest)
    dof = len(every) - p.theta.shape[1] - (len(p.asymptotes) > 1)
    if asymptote is None and dof <= 0:
        raise FitError(
            f"{len(every)} points for {p.theta.shape[1] + 1} parameters can't tell the asymptote: "
            "give it, or a range of it, by asymptote="
        )
    if dof <= 0:  # every asymptote of the range fits alike
        p = replace(p, best=len(p.asymptotes) // 2)
    p_equal, with_one = float("nan"), {}
    if slopes == "own" and dof > 0:
        one = compute_multipliers(points, baseline, asymptote=asymptote, slopes="one", level=level)
        p_equal = _p_equal(p, one.profile, dof, one.dof)
        with_one = {m: one.at_compute(m, one.points[m][0][0]).estimate for m in one.models}
    found = ComputeMultipliers(
        baseline=baseline,
        models=tuple(name for name in arms if name != baseline),
        points={
            name: (tuple(np.exp(c).tolist()), tuple(losses.tolist()))
            for name, (c, losses) in arms.items()
        },
        slopes=slopes,
        level=level,
        estimated=asymptote is None,
        p_equal=p_equal,
        with_one=with_one,
        dof=dof,
        skipped=skipped,
        warnings=(),
        profile=p,
    )
    return replace(found, warnings=tuple(_warnings(found)))


def lowest_points(table: pd.DataFrame) -> dict[str, tuple[Array, Array]]:
    """Each series' budgets, with the lowest loss over sizes of the cells there: for runs of one
    size a budget. Where several sizes were run the minimum of a curve is better.
    """
    require(table, ["budget"], "lowest_points")
    cells = best_of_cells(table, by=["series", "budget"])
    return {
        str(series): (own["budget"].to_numpy(np.float64), own["loss"].to_numpy(np.float64))
        for series, own in cells.sort_values("budget").groupby("series", sort=False)
    }


def _arm(name: str, budgets: ArrayLike, losses: ArrayLike) -> tuple[Array, Array]:
    """ln C and losses."""
    C, L = (
        np.ravel(positive(f"{name}: budget", budgets)),
        np.ravel(positive(f"{name}: loss", losses)),
    )
    if len(C) != len(L) or not len(C):
        raise ValueError(f"{name}: {len(C)} budgets for {len(L)} losses")
    return np.log(C), L


def _unusable(log_c: Array, losses: Array) -> str:
    """Why no law can be fitted to a model's points; empty if one can."""
    if len(np.unique(log_c)) < 2:
        return "a single budget; a law needs two, so add runs at another"
    if not np.cov(log_c, losses)[0, 1] < 0:
        return "the losses do not fall with compute"
    return ""


def _range(asymptote: Asymptote, lowest_loss: float) -> tuple[float, float]:
    if asymptote is None:
        return 0.0, lowest_loss
    ends = (asymptote, asymptote) if isinstance(asymptote, float | int) else asymptote
    if not 0 <= ends[0] <= ends[1] < lowest_loss:
        raise ValueError(
            f"asymptote={asymptote!r} must be at least 0 and below the lowest loss, "
            f"{lowest_loss:.4f}, the lower end of a range first"
        )
    return float(ends[0]), float(ends[1])


def _p_equal(own: Profile, one: Profile, dof: int, dof_one: int) -> float:
    """Probability of the F test; 0 or 1 for points without scatter."""
    squares, more = float(own.squares[own.best]), float(one.squares[one.best])
    if squares < dof * _EXACT**2:
        return float(more < dof_one * _EXACT**2)
    return float(
        stats.f.sf((more - squares) / (dof_one - dof) / (squares / dof), dof_one - dof, dof)
    )


def _warnings(found: ComputeMultipliers) -> list[str]:
    warned: list[str] = []
    if found.dof <= 0:
        warned.append("no degree of freedom: the intervals are unknown")
    elif found.dof == 1:
        warned.append("one degree of freedom: an interval that leaves out 1 may be luck")
    low, high = found.asymptotes
    ends = found.profile.asymptotes[[0, -1]]
    if found.estimated and low <= ends[0] and high >= ends[1]:
        warned.append(
            f"the asymptote is not identifiable: any from 0 to the lowest loss, {ends[1]:.3g}, "
            "fits as well"
        )
    elif found.estimated and found.asymptote <= _NO_FLOOR * ends[1]:
        warned.append("the asymptote that fits best is 0: the losses fall as a power of compute")
    beyond: dict[float, list[str]] = {}
    for one in found.at():
        if one.extrapolated:
            beyond.setdefault(one.compute, []).append(one.model)
    for budget, models in beyond.items():
        warned.append(
            f"at C={numbers.flops(budget)} the laws are continued beyond the budgets for "
            f"{join_first(models, 8)}"
        )
    open_ended = sorted({m.model for m in found.at() if np.isinf(m.upper)})
    if open_ended:
        warned.append(
            f"{join_first(open_ended, 8)}: the multiplier may be anything: an alpha is not "
            "significantly different from 0, or the asymptote may be close to the losses"
        )
    return warned
