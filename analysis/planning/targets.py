"""Named intervals: their half-width with the runs of some curves, before these are run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError
from analysis.planning.arms import Arm, estimate_errors
from analysis.settings import setting

Kind = Literal["N*", "a", "alpha", "multiplier", "difference"]
FORMS = "N*@FLOPS, a, alpha, multiplier@FLOPS or MODEL-MODEL@FLOPS"
_WITH_FLOOR = 4  # budgets of a law L = E + A C^-alpha
_UNKNOWN = 1e9  # half-width where there is no degree of freedom


@dataclass(frozen=True, kw_only=True)
class Target:
    """kind, and the models it is of: the baseline second. budget: FLOPs, nan of exponents."""

    name: str
    kind: Kind
    models: tuple[str, ...]
    budget: float = float("nan")

    @property
    def in_logs(self) -> bool:
        """Whether its half-width is of a logarithm."""
        return self.kind in ("N*", "multiplier")


def parse_target(text: str, models: tuple[str, ...], model: str | None, baseline: str) -> Target:
    """A target by its name; models: those with curves. Raises ValueError saying what it may be."""
    name, at, flops = text.partition("@")
    budget = _flops(text, flops) if at else float("nan")

    def known(asked: str | None, role: str) -> str:
        if asked in models:
            return str(asked)
        if asked is None and len(models) == 1:
            return models[0]
        said = f"{setting(role, asked)} must be" if asked else f"{text!r} needs a model:"
        raise ValueError(f"{said} one of {', '.join(models) or 'none'}")

    def two(one: str, other: str) -> tuple[str, str]:
        if one == other:
            raise ValueError(f"{text!r} is of two models; {one} is both")
        return one, other

    if name in ("a", "alpha") and not at:
        return Target(
            name=text, kind="a" if name == "a" else "alpha", models=(known(model, "model"),)
        )
    if name == "N*" and at:
        return Target(name=text, kind="N*", models=(known(model, "model"),), budget=budget)
    if name == "multiplier" and at:
        other = model or ("peer" if "peer" in models else None)
        pair = two(known(other, "model"), known(baseline, "baseline"))
        return Target(name=text, kind="multiplier", models=pair, budget=budget)
    found = re.fullmatch(r"(.+)-(.+)", name)
    if found and at:
        pair = two(known(found[1], "model"), known(found[2], "model"))
        return Target(name=text, kind="difference", models=pair, budget=budget)
    raise ValueError(f"{setting('target', text)} must be {FORMS}")


def _flops(text: str, flops: str) -> float:
    try:
        value = float(flops)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"{setting('target', text)}: {flops!r} must be a number of FLOPs above 0")
    return value


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """A target with the scatter about its law that noise does not explain: misfit, a variance."""

    target: Target
    asymptote: float
    misfit: float

    def half_width(self, arms: Mapping[str, Arm], level: float) -> float:
        """Half-width to expect, the median over the noise's estimates."""
        own = [arms[name] for name in self.target.models]
        curves = [arm.curve(self.target.budget) for arm in own]
        if self.target.kind == "difference" or (self.target.kind == "N*" and curves[0] is not None):
            which = 0 if self.target.kind == "N*" else 1
            return _of_curves(own, self.target.budget, which, level)
        return _of_laws(self, own, level)


def _of_curves(arms: list[Arm], budget: float, which: int, level: float) -> float:
    """Half-width of one minimum, or of the difference of two; dof by Satterthwaite."""
    parts = []
    for arm in arms:
        i = next(k for k, c in enumerate(arm.curves) if c is arm.curve(budget))
        errors = estimate_errors(arm)
        parts.append((errors.own[i, which] + errors.common[which, i, i], arm.dof))
    variance = sum(v for v, _ in parts)
    dof = variance**2 / sum(v**2 / n for v, n in parts)
    return _half(variance, 0.0, dof, level)


def _half(scattered: float, common: float, dof: float, level: float) -> float:
    """Half-width by two variances: one that is estimated with dof, and one that is known."""
    if not dof >= 1:
        return _UNKNOWN
    t, typical = _of_student(dof, level)
    return t * float(np.sqrt(scattered * typical + common))


@lru_cache(maxsize=4096)  # hundreds of candidates have one dof
def _of_student(dof: float, level: float) -> tuple[float, float]:
    """t, and the median of an estimated variance in that of the true one."""
    return float(stats.t.ppf((1 + level) / 2, dof)), float(stats.chi2.median(dof)) / dof


def _of_laws(goal: Goal, arms: list[Arm], level: float) -> float:
    """By least squares of the minima on ln C, unweighted, as the laws are fitted."""
    laws = _laws(goal, arms)
    rows, p = laws.design.shape
    if rows <= p:
        return _UNKNOWN
    errors = [estimate_errors(arm) for arm in arms]
    own = np.concatenate([e.own[:, laws.which] for e in errors]) * laws.scale**2
    scattered = _scatter(laws.design, own) / (rows - p) + goal.misfit
    prior = laws.prior * np.sqrt(scattered)
    weights = laws.gradient @ np.linalg.pinv(np.vstack([laws.design, prior]))
    common, at = 0.0, 0
    for e, arm in zip(errors, arms, strict=True):
        mine = (weights * np.append(laws.scale, np.zeros(len(prior))))[at : at + len(arm.curves)]
        common += float(mine @ e.common[laws.which] @ mine)
        at += len(arm.curves)
    return _half(scattered * float(weights @ weights), common, rows - p, level)


def _scatter(design: Array, variances: Array) -> float:
    """Summed squares about a law to expect of points with these variances."""
    residual = np.eye(len(design)) - design @ np.linalg.pinv(design)
    return float(residual.diagonal() @ variances)


class _Laws(NamedTuple):
    """Laws of B minima in all: design (B, p) and gradient (p,), which of the minima's numbers
    they are of (0 sizes, 1 losses), and what turns its errors to the scale that is fitted (B,).
    prior (P, p): the reciprocals of the spread of what has a range without any run.
    """

    design: Array
    gradient: Array
    which: int
    scale: Array
    prior: Array


def _laws(goal: Goal, arms: list[Arm]) -> _Laws:
    target = goal.target
    if target.kind == "multiplier":
        return _two_laws(goal, *arms)
    (arm,) = arms
    x = arm.log_budgets
    line = np.stack([np.ones_like(x), x], axis=1)
    if target.kind in ("N*", "a"):
        at = 0.0 if target.kind == "a" else 1.0
        gradient = np.array([at, np.log(target.budget) if at else 1.0])
        return _Laws(line, gradient, 0, np.ones_like(x), np.empty((0, 2)))
    loss = np.array([c.loss_opt for c in arm.curves])
    above = loss - goal.asymptote
    # of ln A, alpha and E, in ln L
    design = np.column_stack([above / loss, -x * above / loss, 1 / loss])
    return _Laws(design, np.array([0.0, 1.0, 0.0]), 1, 1 / loss, np.empty((0, 3)))


def _two_laws(goal: Goal, arm: Arm, baseline: Arm) -> _Laws:
    """ln A and alpha of each, and the E that both have: it may be from 0 to the lowest loss."""
    laws = [_power(one, goal.asymptote) for one in (arm, baseline)]
    (log_a, alpha), (log_b, beta) = laws
    here = float(np.log(goal.target.budget))
    there = (log_b - log_a + alpha * here) / beta
    parts = []
    for one in (arm, baseline):
        above = np.array([c.loss_opt for c in one.curves]) - goal.asymptote
        parts.append(np.stack([above, -one.log_budgets * above], axis=1))
    n = len(arm.curves)
    design = np.zeros((n + len(baseline.curves), 5))
    design[:n, :2], design[n:, 2:4], design[:, 4] = *parts, 1.0
    gradient = np.array([-1.0, here, 1.0, -there, 0.0]) / beta
    lowest = min(c.loss_opt for one in (arm, baseline) for c in one.curves)
    prior = np.array([[0.0, 0.0, 0.0, 0.0, np.sqrt(12) / lowest]])
    return _Laws(design, gradient, 1, np.ones(len(design)), prior)


@lru_cache(maxsize=256)  # of two models one changes at a time
def _power(arm: Arm, asymptote: float) -> tuple[float, float]:
    """ln A and alpha of L = E + A C^-alpha through a model's minima."""
    losses = np.array([c.loss_opt for c in arm.curves])
    slope, level = np.polyfit(arm.log_budgets, np.log(losses - asymptote), 1)
    return float(level), float(-slope)


def make_goal(target: Target, arms: Mapping[str, Arm], asymptote: float) -> Goal:
    """With the misfit of the law that the target is of; 0 of curves, and without degrees of
    freedom. asymptote: of the losses' laws, nats, where they are linearised.

    Raises ValueError for a difference at a budget without both minima, FitError for an exponent of
    the loss of fewer than four budgets, whose law has no floor.
    """
    goal = Goal(target=target, asymptote=asymptote, misfit=0.0)
    own = [arms[name] for name in target.models]
    if target.kind == "difference" or (target.kind == "N*" and own[0].curve(target.budget)):
        missing = [arm.model for arm in own if arm.curve(target.budget) is None]
        if missing:
            have = ", ".join(f"{c.budget:.3g}" for c in arms[missing[0]].curves)
            raise ValueError(
                f"{target.name}: {missing[0]} has no minimum at {target.budget:.3g} FLOPs; it has "
                f"them at {have}"
            )
        return goal
    n = len(own[0].curves)
    if target.kind == "alpha" and n < _WITH_FLOOR:
        raise FitError(
            f"alpha of {own[0].model} is not identifiable: a law with a floor needs {_WITH_FLOOR} "
            f"budgets with a minimum, and there are {n}; run a further budget first"
        )
    laws = _laws(goal, own)
    free = laws.design.shape[0] - laws.design.shape[1]
    if free < 1:
        return goal
    values = np.concatenate([[(c.u_opt, c.loss_opt)[laws.which] for c in a.curves] for a in own])
    if laws.which == 0:
        off = values - laws.design @ np.linalg.lstsq(laws.design, values)[0]
    else:  # residuals of the laws themselves, which are not linear
        powers = [_power(arm, asymptote) for arm in own]
        law = np.concatenate(
            [
                asymptote + np.exp(level - slope * arm.log_budgets)
                for arm, (level, slope) in zip(own, powers, strict=True)
            ]
        )
        off = np.log(values / law) if target.kind == "alpha" else values - law
    variances = (
        np.concatenate([estimate_errors(arm).own[:, laws.which] for arm in own]) * laws.scale**2
    )
    more = max(float(off @ off) - _scatter(laws.design, variances), 0.0)
    return Goal(target=target, asymptote=asymptote, misfit=more / free)
