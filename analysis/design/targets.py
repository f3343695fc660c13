"""The named intervals: their half-width with the runs of some curves, before these are run."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

from analysis.design.arms import Arm, errors_of
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError

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
        said = f"{role}={asked!r} must be" if asked else f"{text!r} needs a model:"
        raise ValueError(f"{said} one of {', '.join(models) or 'none'}")

    if name in ("a", "alpha") and not at:
        return Target(
            name=text, kind="a" if name == "a" else "alpha", models=(known(model, "model"),)
        )
    if name == "N*" and at:
        return Target(name=text, kind="N*", models=(known(model, "model"),), budget=budget)
    if name == "multiplier" and at:
        other = model or ("peer" if "peer" in models else None)
        pair = known(other, "model"), known(baseline, "baseline")
        if pair[0] == pair[1]:
            raise ValueError(f"{text!r} is of two models; {pair[0]} is both")
        return Target(name=text, kind="multiplier", models=pair, budget=budget)
    found = re.fullmatch(r"(.+)-(.+)", name)
    if found and at:
        pair = known(found[1], "model"), known(found[2], "model")
        return Target(name=text, kind="difference", models=pair, budget=budget)
    raise ValueError(f"for={text!r} must be {FORMS}")


def _flops(text: str, flops: str) -> float:
    try:
        value = float(flops)
    except ValueError:
        value = float("nan")
    if not (np.isfinite(value) and value > 0):
        raise ValueError(f"for={text!r}: {flops!r} must be a number of FLOPs above 0")
    return value


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal:
    """A target with the scatter about its law that noise does not explain: misfit, a variance."""

    target: Target
    asymptote: float
    misfit: float

    def half_width(self, arms: Mapping[str, Arm], level: float) -> float:
        """The half-width to expect, the median over the noise's estimates."""
        own = [arms[name] for name in self.target.models]
        curves = [arm.curve(self.target.budget) for arm in own]
        if self.target.kind == "difference" or (self.target.kind == "N*" and curves[0] is not None):
            which = 0 if self.target.kind == "N*" else 1
            return _of_curves(own, self.target.budget, which, level)
        return _of_laws(self, own, level)


def _of_curves(arms: list[Arm], budget: float, which: int, level: float) -> float:
    """The half-width of one minimum, or of the difference of two; dof by Satterthwaite."""
    parts = []
    for arm in arms:
        i = next(k for k, c in enumerate(arm.curves) if c is arm.curve(budget))
        errors = errors_of(arm)
        parts.append((errors.own[i, which] + errors.common[which, i, i], arm.dof))
    variance = sum(v for v, _ in parts)
    dof = variance**2 / sum(v**2 / n for v, n in parts)
    return _half(variance, 0.0, dof, level)


def _half(scattered: float, common: float, dof: float, level: float) -> float:
    """The half-width by two variances: one that is estimated with dof, and one that is known."""
    if not dof >= 1:
        return _UNKNOWN
    t = float(stats.t.ppf((1 + level) / 2, dof))
    typical = float(stats.chi2.median(dof)) / dof
    return t * float(np.sqrt(scattered * typical + common))


def _of_laws(goal: Goal, arms: list[Arm], level: float) -> float:
    """By least squares of the minima on ln C, unweighted, as the laws are fitted."""
    scatter, common, free, squares = 0.0, 0.0, 0, 0.0
    for k, arm in enumerate(arms):
        design, gradient, which, scale = _law(goal, arms, k)
        if design.shape[0] < design.shape[1]:
            return _UNKNOWN
        errors = errors_of(arm)
        inverse = np.linalg.pinv(design)
        weights = gradient @ inverse
        residual = np.eye(len(design)) - design @ inverse
        own = errors.own[:, which] * scale**2
        shared = errors.common[which] * np.outer(scale, scale)
        scatter += float(residual.diagonal() @ own)
        free += len(design) - design.shape[1]
        squares += float(weights @ weights)
        common += float(weights @ shared @ weights)
    if free < 1:
        return _UNKNOWN
    return _half((scatter / free + goal.misfit) * squares, common, free, level)


def _law(goal: Goal, arms: list[Arm], k: int) -> tuple[Array, Array, int, Array]:
    """Design (B, p) and gradient (p,) of one arm's law, which minima (0 sizes, 1 losses), and what
    turns their errors to the scale that is fitted (B,).
    """
    arm, target = arms[k], goal.target
    x = arm.log_budgets
    line = np.stack([np.ones_like(x), x], axis=1)
    if target.kind in ("N*", "a"):
        gradient = (
            np.array([0.0, 1.0]) if target.kind == "a" else np.array([1.0, np.log(target.budget)])
        )
        return line, gradient, 0, np.ones_like(x)
    loss = np.array([c.loss_opt for c in arm.curves])
    above = loss - goal.asymptote
    if target.kind == "alpha":
        at = np.stack([above / loss, -x * above / loss], axis=1)  # of ln A and alpha, in ln L
        at = np.column_stack([at, 1 / loss])  # and of E
        gradient = np.eye(at.shape[1])[1]
        return at, gradient, 1, 1 / loss
    at = above[:, None] * np.stack([np.ones_like(x), -x], axis=1)
    laws = [_power(one, goal.asymptote) for one in arms]
    (log_a, alpha), (log_b, beta) = laws
    here = float(np.log(target.budget))
    there = (log_b - log_a + alpha * here) / beta
    gradient = np.array([-1.0, here]) / beta if k == 0 else np.array([1.0, -there]) / beta
    return at, gradient, 1, np.ones_like(x)


def _power(arm: Arm, asymptote: float) -> tuple[float, float]:
    """ln A and alpha of L = E + A C^-alpha through a model's minima."""
    losses = np.array([c.loss_opt for c in arm.curves])
    slope, level = np.polyfit(arm.log_budgets, np.log(losses - asymptote), 1)
    return float(level), float(-slope)


def goal_of(target: Target, arms: Mapping[str, Arm], asymptote: float) -> Goal:
    """With the misfit of the law that the target is of; 0 of curves, and without degrees of
    freedom. asymptote: of the losses' laws, nats; held there for a multiplier.

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
    scatter, expected, free = 0.0, 0.0, 0
    for k, arm in enumerate(own):
        design, _, which, scale = _law(goal, own, k)
        values = np.array([c.u_opt if which == 0 else c.loss_opt for c in arm.curves])
        if which == 1:
            values = np.log(values) if target.kind == "alpha" else values
        residual = np.eye(len(design)) - design @ np.linalg.pinv(design)
        if which == 1:  # residuals of the law itself, which is not linear
            level, slope = _power(arm, asymptote)
            law = asymptote + np.exp(level - slope * arm.log_budgets)
            off = values - (np.log(law) if target.kind == "alpha" else law)
        else:
            off = residual @ values
        scatter += float(off @ off)
        expected += float(residual.diagonal() @ (errors_of(arm).own[:, which] * scale**2))
        free += len(design) - design.shape[1]
    if free < 1:
        return goal
    return Goal(target=target, asymptote=asymptote, misfit=max(scatter - expected, 0.0) / free)
