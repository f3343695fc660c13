"""Runs that curves leave out: those of too few sizes, one line for many, and outliers."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from analysis.fitting.text import join_first, pluralize
from analysis.settings import setting

NEEDED = 3  # sizes of a curve
_EACH = 2  # curves of one number of sizes that have a line each
_CLOSE = 1.2  # planned budgets differ by more
_NUMBERS = {1: "one size", 2: "two sizes"}


@dataclass(frozen=True, kw_only=True)
class TooFew:
    """A curve that could not be fitted: how many sizes a model has at a budget in FLOPs."""

    model: str
    budget: float
    n_sizes: int


@dataclass(frozen=True, kw_only=True)
class OutlierRun:
    """A run that the others of its model do not expect. off: nats above their curve; chance: of one
    so far off by noise; excluded: whether the curve is not of it.
    """

    model: str
    budget: float
    size: float
    loss: float
    off: float
    chance: float
    excluded: bool

    def __str__(self) -> str:
        what = ": excluded" if self.excluded else ""
        return (
            f"the run at size {self.size:.4g} is {self.off:+.3f} nats off the others' curve "
            f"(p={self.chance:.1g}){what}"
        )


def outliers_in(runs: Sequence[OutlierRun]) -> tuple[str, ...]:
    """A line for each model that has some."""
    lines = []
    for model in dict.fromkeys(run.model for run in runs):
        own = [run for run in runs if run.model == model]
        each = ", ".join(f"C={run.budget:.3g} size {run.size:.4g} {run.off:+.3f}" for run in own)
        verb = "excluded" if own[0].excluded else "kept"
        lines.append(f"{model}: {pluralize(len(own), 'outlier')} {verb}, nats: {each}")
    return tuple(lines)


def left_out(curves: Sequence[TooFew]) -> tuple[str, ...]:
    """Lines about them: a line each of a few, a line for all of one number of sizes of many."""
    lines = []
    for n in sorted({curve.n_sizes for curve in curves}, reverse=True):
        own = [curve for curve in curves if curve.n_sizes == n]
        if len(own) <= _EACH:
            lines += [
                f"{c.model} at C={c.budget:.3g}: {pluralize(n, 'size')}, and a curve needs {NEEDED}"
                for c in own
            ]
        else:
            lines.append(_in_one_line(own))
    return tuple(lines)


def _in_one_line(curves: Sequence[TooFew]) -> str:
    models = list(dict.fromkeys(curve.model for curve in curves))
    first = join_first([f"C={curve.budget:.4g}" for curve in curves])
    if len(models) == 1:
        what = f"{models[0]}: {len(curves)} budgets"
    else:
        what = f"{len(curves)} budgets of {len(models)} models ({join_first(models)})"
    return (
        f"{what} with {_NUMBERS[curves[0].n_sizes]} each are left out, and a curve needs "
        f"{NEEDED}: {first}{_remedy(curves, models)}"
    )


def _remedy(curves: Sequence[TooFew], models: Sequence[str]) -> str:
    """Possible faults of the table: names of runs, or budgets as each run counted them."""
    if curves[0].n_sizes > 1:
        return ""
    if len(models) == len(curves):
        one = setting("series", [])
        return f"; if a model's name is of one run, {one} makes all runs one curve"
    budgets = sorted({curve.budget for curve in curves})
    if any(b < _CLOSE * a for a, b in pairwise(budgets)):
        ways = setting("budgets", [6e18, 1e19]), setting("budget_tolerance", 0.05)
        return f"; {ways[0]} or {ways[1]} joins those that are one budget"
    return ""
