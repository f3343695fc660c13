"""Noise of a run by class of layers and budget, from seeds, or from the scatter about curves.

Seeds of one size differ by noise alone. The scatter about the curves has what the curves miss
besides. Where it is significantly larger than the seeds allow, more seeds do not help, and the
noise is the scatter: a size then counts as one point, however many seeds it has.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis import numbers
from analysis.contrast.curves import Curves, Design, fit_curves, make_design
from analysis.contrast.points import Points
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError

Source = Literal["seeds", "scatter"]
SOURCES = ("auto", "seeds", "scatter")
LACK = 0.02  # chance of a scatter so large by the seeds' noise: less is a lack of fit
ALIKE = 0.1  # chance of layers' noises so unequal: less, and each layer is a class of its own
_ROUNDING = 1e-9  # nats: a smaller standard deviation is no noise
_LEAST_FREE = 1.0  # degrees of freedom of a scatter: less tell nothing
_STEPS, _STILL = 500, 1e-12
_DRAWS = 2000
_OTHERS = 4.0  # degrees of freedom: as few as make budgets of two or three seeds no outliers

Classes = Mapping[str, str]  # layer -> class


@dataclass(frozen=True, kw_only=True)
class GroupNoise:
    """Noise of a run of a class at a budget (FLOPs): sd in nats/token with dof degrees of
    freedom, of `source`.

    seeds, seeds_dof: by the seeds alone, nan and 0 without two of a size; lack: the scatter of
    the sizes about the curves, beside the seeds' noise (1: as much), and its chance by noise alone;
    nan where unknown.
    """

    of: str
    budget: float
    sd: float
    dof: float
    source: Source
    seeds: float
    seeds_dof: int
    lack: float
    chance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Fitted:
    """Curves with the noise they were fitted by. group (S,): of each point; variance (S,)."""

    curves: Curves
    noises: tuple[GroupNoise, ...]
    group: np.ndarray
    variance: Array


def fit_with_noise(points: Points, design: Design, classes: Classes, source: str) -> Fitted:
    """source: of SOURCES; "auto": seeds where there are any, but the scatter where the curves miss
    more than seeds explain (2 %), by class and budget.

    Raises FitError where the noise of a class at a budget is unknown.
    """
    if source not in SOURCES:
        raise ValueError(f"errors={source!r} is not one of {', '.join(SOURCES)}")
    names = [(classes[layer], budget) for layer, budget in points.cells]
    groups = sorted(set(names), key=lambda one: (list(classes.values()).index(one[0]), one[1]))
    group = np.array([groups.index(name) for name in names])[points.of]
    every = range(len(groups))
    dof = np.array([int((points.n[group == g] - 1).sum()) for g in every])
    squares = np.array([float(points.squares[group == g].sum()) for g in every])
    seeds = np.array([s / n if n else np.nan for s, n in zip(squares, dof, strict=True)])
    seeds = np.maximum(seeds, _ROUNDING**2)
    if source == "seeds" and (dof == 0).any():
        first = _words(groups[int((dof == 0).argmax())])
        raise FitError(f"{first}: no size has two seeds; add seeds, or take errors='auto'")
    by_scatter = (dof == 0) | (source == "scatter")
    free, variances = dof.astype(float), np.where(by_scatter, np.nan, seeds)
    least = np.where(dof > 0, seeds, _ROUNDING**2) if source == "auto" else _ROUNDING**2
    fit = _converged(points, design, group, variances, by_scatter, least)
    lack, chance = _lacks(points, fit[0], group, seeds, dof)
    if source == "auto":
        off = ~by_scatter & (chance < LACK)
        if off.any():
            by_scatter = by_scatter | off
            fit = _converged(points, design, group, variances, by_scatter, least)
    curves, variances = fit
    free = np.array([f if not s else curves.free[group == g].sum() for g, (f, s) in
                     enumerate(zip(free, by_scatter, strict=True))])  # fmt: skip
    for g in every:
        if by_scatter[g] and source == "auto" and dof[g] and variances[g] <= seeds[g]:
            free[g] = dof[g]  # what the curves leave is less than the seeds' noise
        if by_scatter[g] and free[g] < _LEAST_FREE:
            raise FitError(
                f"{_words(groups[g])}: no size has two seeds, and too few sizes are beside the "
                "curves: the noise is unknown; add seeds, or join its layers to another class"
            )
    return Fitted(
        curves=curves,
        noises=tuple(
            GroupNoise(
                of=of,
                budget=budget,
                sd=float(np.sqrt(variances[g])),
                dof=float(free[g]),
                source="scatter" if by_scatter[g] else "seeds",
                seeds=float(np.sqrt(seeds[g])) if dof[g] else float("nan"),
                seeds_dof=int(dof[g]),
                lack=float(lack[g]),
                chance=float(chance[g]),
            )
            for g, (of, budget) in enumerate(groups)
        ),
        group=group,
        variance=_of_points(points, group, variances, by_scatter),
    )


def _words(group: tuple[str, float]) -> str:
    return f"class {group[0]} at C={numbers.flops(group[1])}"


def _of_points(points: Points, group: np.ndarray, variances: Array, by_scatter: Array) -> Array:
    """Variance of each point: a mean over seeds is surer, but not of what the curves miss."""
    return variances[group] / np.where(by_scatter[group], 1, points.n)


def _converged(
    points: Points,
    design: Design,
    group: np.ndarray,
    variances: Array,
    by_scatter: np.ndarray,
    least: Array | float,
) -> tuple[Curves, Array]:
    """Curves and the variances (groups,), those by scatter being what it is about them, `least`
    or more.

    As of restricted likelihood: squares over the degrees of freedom that the curves leave.
    """
    found = np.where(by_scatter, np.nan, variances)
    typical = float(np.nanmedian(found)) if not by_scatter.all() else 1.0
    found = np.where(by_scatter, typical, found)
    for _ in range(_STEPS):
        curves = fit_curves(design, points.losses, _of_points(points, group, found, by_scatter))
        new = found.copy()
        for g in np.flatnonzero(by_scatter):
            own = group == g
            free = max(float(curves.free[own].sum()), 1e-6)
            new[g] = float((curves.off[own] ** 2).sum()) / free
        new = np.where(by_scatter, np.maximum(new, least), new)
        still = np.abs(np.log(new / found)).max() < _STILL
        found = new
        if still:
            break
    return fit_curves(design, points.losses, _of_points(points, group, found, by_scatter)), found


def _lacks(
    points: Points, curves: Curves, group: np.ndarray, seeds: Array, dof: np.ndarray
) -> tuple[Array, Array]:
    """Scatter about curves in the noise of seeds, and its chance by that noise: an F test."""
    lack, chance = np.full(len(dof), np.nan), np.full(len(dof), np.nan)
    for g in np.flatnonzero(dof > 0):
        own = group == g
        free = float(curves.free[own].sum())
        if free < _LEAST_FREE:
            continue
        ratio = float((points.n[own] * curves.off[own] ** 2).sum()) / free / float(seeds[g])
        lack[g], chance[g] = np.sqrt(ratio), stats.f.sf(ratio, free, dof[g])
    return lack, chance


def noise_classes(
    points: Points, named: Mapping[str, Sequence[str]] | None
) -> tuple[Classes, float]:
    """layer -> class, and the chance of layers' noises so unequal within classes (nan: unknown).

    named: class -> its layers; without, all layers are one class, or each is its own where
    Bartlett's test says that their noises differ (10 %). Budgets are never pooled, and each counts
    for itself in the test. Raises ValueError for a layer that is unknown, in two classes or none.
    """
    layers = points.layers
    if named is not None:
        of: dict[str, str] = {}
        for name, members in named.items():
            for layer in members:
                if layer not in layers:
                    raise ValueError(
                        f"classes: {layer!r} of {name!r} has no curve; curves are of "
                        f"{', '.join(layers)}"
                    )
                if layer in of:
                    raise ValueError(f"classes: {layer!r} is in {of[layer]!r} and in {name!r}")
                of[layer] = name
        missing = [layer for layer in layers if layer not in of]
        if missing:
            raise ValueError(f"classes: {', '.join(missing)} is in no class; give each layer one")
        return {layer: of[layer] for layer in layers}, _chance(points, of)
    chance = _chance(points, dict.fromkeys(layers, "all"))
    if chance < ALIKE:
        return {layer: layer for layer in layers}, chance
    return dict.fromkeys(layers, "all"), chance


def _chance(points: Points, classes: Classes) -> float:
    """Bartlett's test (Snedecor and Cochran 1989, section 13.10) of the layers of a class at each
    budget, summed.
    """
    total, more = 0.0, 0
    for name, budget in {(classes[layer], budget) for layer, budget in points.cells}:
        dof, variances = [], []
        for i, (layer, at) in enumerate(points.cells):
            own = points.of == i
            free = int((points.n[own] - 1).sum())
            if classes[layer] == name and at == budget and free:
                dof.append(free)
                variances.append(max(float(points.squares[own].sum()) / free, _ROUNDING**2))
        if len(dof) < 2:
            continue
        n, v = np.array(dof, dtype=float), np.array(variances)
        pooled = float((n * v).sum() / n.sum())
        raw = n.sum() * np.log(pooled) - float((n * np.log(v)).sum())
        total += raw / (1 + ((1 / n).sum() - 1 / n.sum()) / (3 * (len(n) - 1)))
        more += len(n) - 1
    return float(stats.chi2.sf(total, more)) if more else float("nan")


def chance_of_one_curvature(points: Points, classes: Classes, source: str) -> float:
    """Chance of curvatures of layers so unequal by noise, where all have one; nan of a single
    layer, or where these are not identifiable.

    What the sum of squares gains by curvatures of their own is beside what it gains in draws of
    noise alone, about curves that have their own, whose variances are estimated as often again: a
    class and budget of few degrees of freedom may seem to have hardly any noise, and weighs most
    then. So variances are drawn towards those of the class at other budgets first (_shared).
    """
    try:
        own = fit_with_noise(points, make_design(points, "free", "layer"), classes, source)
    except FitError:
        return float("nan")
    if len(points.layers) < 2:
        return float("nan")
    columns = [
        np.linalg.qr(design.columns)[0] for design in (make_design(points), own.curves.design)
    ]
    dof = np.array([noise.dof for noise in own.noises])
    found = np.array([[noise.sd**2 for noise in own.noises]])
    alike = np.array([[one.of == other.of for other in own.noises] for one in own.noises])

    def gains(losses: Array, variances: Array) -> Array:
        """(K,) of losses (K, S) and variances (K, groups)."""
        weights = (found / _shared(variances, dof, alike))[:, own.group] / own.variance
        left = [_squares(basis, losses, weights) for basis in columns]
        return left[0] - left[1]

    rng = np.random.default_rng(0)
    noise = rng.standard_normal((_DRAWS, len(points.u))) * np.sqrt(own.variance)
    alone = gains(noise, found * rng.chisquare(dof, (_DRAWS, len(dof))) / dof)
    n = int(np.count_nonzero(alone >= gains(points.losses[None], found)))
    return (1 + n) / (1 + _DRAWS)


def _shared(variances: Array, dof: Array, alike: np.ndarray) -> Array:
    """Variances (K, groups), each with _OTHERS degrees of freedom of the geometric mean over the
    groups of its class; alike (groups, groups): which are of one class.
    """
    mean = np.exp((np.log(variances) * dof) @ alike / (dof @ alike))
    return np.asarray((variances * dof + mean * _OTHERS) / (dof + _OTHERS), dtype=np.float64)


def _squares(basis: Array, losses: Array, weights: Array) -> Array:
    """Weighted squares (K,) about columns (S, p), less those of the losses (K, S) themselves."""
    normal = np.einsum("si,ks,sj->kij", basis, weights, basis, optimize=True)
    right = (losses * weights) @ basis
    found = np.linalg.solve(normal, right[..., None])[..., 0]
    return -np.asarray((right * found).sum(axis=1), dtype=np.float64)
