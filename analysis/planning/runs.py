"""Runs that a target's interval asks for, one after another, until a budget is spent.

The criterion is that of c-optimal design: the variance of one function of the parameters, to first
order. What is added next is what lowers the logarithm of the expected half-width most per FLOP: a
ratio of widths means the same wherever one stands, and a half-width, unlike a variance, has what
degrees of freedom bring. Such a rule may spend all on what is cheap. So what gains most whatever
it costs is tried too, and the narrower of both taken; neither is sure to be the best.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.checks import check_level, positive, times_beyond
from analysis.fitting.power_law import FrontierFit
from analysis.fitting.results import Warned
from analysis.fitting.status import FitError
from analysis.fitting.text import format_status, pluralize
from analysis.isoflop.curves import IsoFLOPFit
from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.offsets import at_budgets
from analysis.multiplier.fit import compute_multipliers
from analysis.multiplier.result import ComputeMultipliers
from analysis.planning.arms import Arm, make_arm
from analysis.planning.steps import Ladder, Run, find_ladder, find_reach, new_budgets, options
from analysis.planning.targets import Goal, Target, make_goal, parse_target
from analysis.progress import Say, silent
from analysis.settings import setting
from analysis.table.load import finished
from analysis.table.warned import warned

_LEAST = 0.01  # of the half-width: less is not worth a run
_MOST = 200  # runs
_OF_TWO_LAWS = 6  # minima: an amplitude and an exponent each, and one asymptote
_UNSEEN = (
    "not in the expected interval: what the curves' form misses, and rates that are not tuned at "
    "new points"
)


@dataclass(frozen=True, kw_only=True, repr=False)
class NextRuns(Warned):
    """runs, in the order they were chosen, and half (n + 1,): the expected half-width before and
    after each, in nats, or of a logarithm where in_logs. flops: of all; budget: that was to spend.
    known: the half-width that the runs there are have, by the command known_by: half is of repeats
    of these runs, in the median. inf: it has no bound; nan: no such interval, or at another level.
    """

    target: str
    models: tuple[str, ...]
    in_logs: bool
    level: float
    budget: float
    flops: float
    runs: tuple[Run, ...]
    half: tuple[float, ...]
    known: float
    known_by: str
    warnings: tuple[str, ...]

    def to_frame(self) -> pd.DataFrame:
        """A row a run."""
        rows = [
            {
                "model": run.model,
                "size": run.size,
                "n_params": run.n_params,
                "budget": run.budget,
                "seed": run.seed,
                "lr": run.lr,
                "half-width after": half,
            }
            for run, half in zip(self.runs, self.half[1:], strict=True)
        ]
        return pd.DataFrame(rows)

    def width(self, half: float) -> str:
        """A half-width in words."""
        if half >= 1e8:
            return "unknown (no degree of freedom)"
        return f"a factor of {np.exp(half):.4g}" if self.in_logs else f"{half:.4g}"

    def _known(self) -> str:
        if np.isnan(self.known):
            return ""
        said = "no bound" if np.isinf(self.known) else self.width(self.known)
        return f" ({self.known_by} has {said})"

    def summary(self) -> str:
        head = f"{self.target} of {' and '.join(self.models)}: {self.level:.0%} half-width"
        spent = f"{numbers.flops(self.flops)} of {numbers.flops(self.budget)} FLOPs"
        frame = self.to_frame()
        if len(frame):
            frame["budget"] = frame["budget"].map(numbers.flops)
            frame["n_params"] = frame["n_params"].map(numbers.count)
            frame["half-width after"] = [self.width(half) for half in self.half[1:]]
            if frame["size"].isna().all():
                frame = frame.drop(columns="size")
        lines = [
            f"{head} {self.width(self.half[0])} as it is expected now{self._known()}, "
            f"{self.width(self.half[-1])} after {pluralize(len(self.runs), 'run')}, {spent}",
            *(
                [frame.to_string(index=False, float_format=lambda v: f"{v:.4g}")]
                if len(frame)
                else []
            ),
        ]
        return "\n".join([*lines, *format_status(self.status, self.warnings)])


@warned()
def next_runs(
    table: pd.DataFrame,
    target: str,
    budget: float,
    *,
    model: str | None = None,
    baseline: str = "dense",
    x: str = "n_params",
    level: float = 0.95,
    say: Say = silent,
) -> NextRuns:
    """Runs that narrow a target's interval most per FLOP, for `budget` FLOPs in all.

    target: "N*@1e15", the best size by the curve of that budget, else by the law; "a", the exponent
    of the best size; "alpha", that of the loss; "multiplier@1e14", of `model` over the baseline;
    "peer-none@3e13", the difference of two models' lowest losses at a budget. Curves are slices.
    Raises ValueError for a target that is none, FitError if no curve can be had.
    """
    positive("budget", budget)
    check_level(level)
    done = finished(table)
    names = tuple(dict.fromkeys(done["series"].astype(str)))
    asked = parse_target(target, names, model, baseline)  # before the fit, which takes seconds
    known = done["budget"].dropna().to_numpy(dtype=np.float64)
    if np.isfinite(asked.budget) and known.size:
        times_beyond(
            setting("target", target), asked.budget, float(known.min()), float(known.max())
        )
    fit = fit_isoflop(table, x)
    names = tuple(dict.fromkeys(c.model for c in fit.curves if c.inside))
    asked = parse_target(target, names, model, baseline)
    at = at_budgets(table, x).table
    arms = {name: make_arm(fit, name, at) for name in asked.models}
    ladders = {name: find_ladder(table, name, x) for name in asked.models}
    goal = make_goal(asked, arms, _asymptote(fit, asked, level))
    ways = [_greedy(goal, arms, ladders, budget, level, say, per_flop=f) for f in (True, False)]
    runs, half = min(ways, key=lambda one: one[1][-1])
    warnings = [_UNSEEN]
    if any(arm.is_lack for arm in arms.values()):
        lacking = ", ".join(name for name, arm in arms.items() if arm.is_lack)
        warnings.insert(0, f"curves of {lacking} lack fit: more seeds of a size are worth nothing")
    if not runs:
        warnings.insert(0, "no run within the budget narrows it")
    return NextRuns(
        target=asked.name,
        models=asked.models,
        in_logs=asked.in_logs,
        level=level,
        budget=float(budget),
        flops=sum(run.budget for run in runs),
        runs=tuple(runs),
        half=tuple(half),
        known=make_half(fit, asked, x, level),
        known_by="multiplier" if asked.kind == "multiplier" else "isoflop",
        warnings=tuple(warnings),
    )


def make_half(fit: IsoFLOPFit, target: Target, x: str, level: float) -> float:
    """Half-width of the target's interval by the fit; inf: it is open; nan: it has none."""
    if target.kind == "difference":
        return float("nan")
    name = target.models[0]
    curves = [c for c in fit.curves if c.model == name and c.inside]
    at = [c for c in curves if abs(np.log(c.budget / target.budget)) < 1e-6]
    if target.kind == "multiplier":
        _, low, high = _pair(fit, target, level).at_compute(name, target.budget).estimate
    elif target.kind == "N*" and at:
        low, high = at[0].x_interval if level == 0.95 else (np.nan, np.nan)
    elif name not in {laws.model for laws in fit.laws}:
        return float("nan")
    elif target.kind == "N*":
        _, low, high = fit.law(name).laws[x].predict(target.budget, level).first
    elif target.kind == "a":
        low, high = fit.law(name).laws[x].bounds("exponent", level)
    else:
        law = fit.law(name).loss
        assert isinstance(law, FrontierFit)  # goal_of refuses fewer budgets
        low, high = law.bounds("alpha", level)
    if target.in_logs:
        with np.errstate(divide="ignore"):
            low, high = np.log(low), np.log(high)
    return float((high - low) / 2)


def _pair(fit: IsoFLOPFit, target: Target, level: float) -> ComputeMultipliers:
    """Multiplier of the target's models by their laws alone."""
    points = {name: fit.frontier(name) for name in target.models}
    n = sum(len(losses) for _, losses in points.values())
    if n < _OF_TWO_LAWS:
        raise FitError(
            f"{target.name} is not identifiable: two laws with one asymptote need {_OF_TWO_LAWS} "
            f"budgets with a minimum in all, and there are {n}; run a further budget first"
        )
    return compute_multipliers(points, target.models[1], level=level)


def _asymptote(fit: IsoFLOPFit, target: Target, level: float) -> float:
    """E that laws of the loss have, where the target is of one."""
    if target.kind == "multiplier":
        return _pair(fit, target, level).asymptote
    if target.kind == "alpha":
        law = fit.law(target.models[0]).loss
        return law.floor if isinstance(law, FrontierFit) else 0.0
    return 0.0


def _greedy(
    goal: Goal,
    arms: Mapping[str, Arm],
    ladders: Mapping[str, Ladder],
    budget: float,
    level: float,
    say: Say,
    *,
    per_flop: bool,
) -> tuple[list[Run], list[float]]:
    """Runs in their order, and the half-widths before and after each. per_flop: what is most a
    FLOP is taken, else most whatever it costs.
    """
    how = "per FLOP" if per_flop else "whatever it costs"
    now, left = dict(arms), budget
    places = {name: (new_budgets(arm), find_reach(arm)) for name, arm in arms.items()}
    taken: dict[str, dict[tuple[float, int], int]] = {name: {} for name in arms}
    runs: list[Run] = []
    half = [goal.half_width(now, level)]
    while len(runs) < _MOST:
        say(f"most {how}: {pluralize(len(runs), 'run')}, {left / budget:.0%} of the FLOPs left")
        best, most = None, 0.0
        for name, arm in now.items():
            for at, positions in options(arm, ladders[name], *places[name]):
                cost = at * len(positions)
                if cost > left * (1 + 1e-9):
                    continue
                moved = arm.plus(at, ladders[name].u[positions].tolist())
                after = goal.half_width({**now, name: moved}, level)
                value = float(np.log(half[-1] / after)) / (cost if per_flop else 1)
                if after < half[-1] * (1 - _LEAST) and value > most:
                    best, most = (name, at, positions, moved, after), value
        if best is None:
            break
        name, at, positions, moved, after = best
        chosen = ladders[name].runs(at, positions, taken[name])
        taken[name] |= {(at, i): run.seed for i, run in zip(positions, chosen, strict=True)}
        runs += chosen
        half += [after] * len(chosen)
        now, left = {**now, name: moved}, left - at * len(positions)
    return runs, half
