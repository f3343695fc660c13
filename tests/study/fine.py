"""Stage *fine* of the study's third edition, as results/study/edition_3/registration.md has it:
PEER against `moe_fine` of its parameters and FLOPs, at 1e14 and one width.

    python -m tests.study.fine
"""

import math
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd
from scipy import stats

from analysis.rates.saved import read_rates
from tests.study.kinds import KINDS, by_kind, course, read_kept, sums_of
from tests.study.records import find, student
from tests.study.second import BY_FORM

LAYERS, BUDGET, SIZE, SEEDS = ("peer", "moe_fine"), 1e14, 6, (2, 3, 4, 5)
N_RATES = 3


@dataclass(frozen=True, kw_only=True)
class Parabola:
    """Losses (n,) of a layer at x (n,), ln(rate) from `middle`: least squares of 1, x, x^2."""

    x: np.ndarray
    losses: np.ndarray
    middle: float

    @property
    def design(self):
        return np.stack([self.x**0, self.x, self.x**2], axis=1)

    @property
    def coefficients(self):
        return np.linalg.lstsq(self.design, self.losses, rcond=None)[0]

    @property
    def residuals(self):
        return self.losses - self.design @ self.coefficients

    @property
    def lowest_at(self):
        """x of its lowest point; None where it opens downwards or that is outside of the rates."""
        _, slope, bend = self.coefficients
        at = -slope / (2 * bend) if bend > 0 else math.nan
        return at if self.x.min() <= at <= self.x.max() else None

    @property
    def lowest(self):
        """b, and what the variance of a run is multiplied by for that of b."""
        if self.lowest_at is None:
            best = min(set(self.x), key=lambda x: self.losses[self.x == x].mean())
            own = self.losses[self.x == best]
            return own.mean(), 1 / len(own)
        # What moves the lowest point moves its loss only by the second order
        way = np.array([1.0, self.lowest_at, self.lowest_at**2])
        return way @ self.coefficients, way @ np.linalg.inv(self.design.T @ self.design) @ way

    def slope_at(self, x):
        """Slope in ln(rate), and what the variance of a run is multiplied by for its own."""
        way = np.array([0.0, 1.0, 2 * x])
        return way @ self.coefficients, way @ np.linalg.inv(self.design.T @ self.design) @ way


def variance_of(parabolas):
    """Of a run, from the residuals of all, and its degrees of freedom."""
    dof = sum(len(p.x) - 3 for p in parabolas)
    return sum(float((p.residuals**2).sum()) for p in parabolas) / dof, dof


def difference(of, other):
    """b of one layer minus that of another, by the delta method."""
    variance, dof = variance_of((of, other))
    (b, part), (b_other, part_other) = of.lowest, other.lowest
    return student(b - b_other, math.sqrt(variance * (part + part_other)), dof)


def excluded(parabola, log_rate, variance, dof):
    """Whether the 95 % interval of its lowest point excludes this ln(rate), by Fieller's theorem:
    whether the slope there is significant.
    """
    slope, part = parabola.slope_at(log_rate - parabola.middle)
    return abs(slope) > stats.t.ppf(0.975, dof) * math.sqrt(variance * part)


@cache
def runs(model):
    found = [
        r
        for r in find("study/edition_3", model=model, n_layers=SIZE)
        if math.isclose(r.budget, BUDGET) and r.seed in SEEDS and r.status == "done"
    ]
    return tuple(sorted(found, key=lambda r: (r.lr, r.seed)))


def is_done():
    """Whether each layer has its twelve runs: three rates, four seeds each."""
    return all(len(runs(m)) == N_RATES * len(SEEDS) for m in LAYERS)


@cache
def parabola(model):
    logs = np.log([r.lr for r in runs(model)])
    losses = np.array([r.val_loss for r in runs(model)])
    return Parabola(x=logs - logs.mean(), losses=losses, middle=float(logs.mean()))


@cache
def fine():
    """The registered contrast: PEER minus `moe_fine`."""
    return difference(*map(parabola, LAYERS))


def mean_losses(model):
    """By rate, lowest first: rate, mean loss of its seeds."""
    rates = sorted({r.lr for r in runs(model)})
    return [(lr, np.mean([r.val_loss for r in runs(model) if r.lr == lr])) for lr in rates]


def of_means(kind="loss"):
    """PEER minus `moe_fine` in the mean of all runs, which no best rate is chosen for: exploratory.
    kind: of targets. The noise is of runs about the mean of their rate.
    """
    own = {m: [(r.lr, by_kind(sums_of(r))[kind]) for r in runs(m)] for m in LAYERS}
    cells = [[v for at, v in own[m] if at == lr] for m in LAYERS for lr, _ in mean_losses(m)]
    dof = sum(len(cell) - 1 for cell in cells)
    variance = sum(len(cell) * np.var(cell) for cell in cells) / dof
    mean, other = (np.mean([v for _, v in own[m]]) for m in LAYERS)
    return student(mean - other, math.sqrt(variance * sum(1 / len(own[m]) for m in LAYERS)), dof)


def scored(model):
    """Runs of which kept checkpoints are scored: those at the law's rate."""
    ids = {row["run_id"] for row in read_kept()}
    return [r for r in runs(model) if r.run_id in ids]


def over_training(kind):
    """PEER minus `moe_fine` at each tenth of these runs, the means of four seeds."""
    peer, other = (
        np.mean([[row[kind] for row in course(r.run_id)] for r in scored(m)], axis=0)
        for m in LAYERS
    )
    return peer - other


def most_apart(model):
    """Highest mean of a rate less the lowest one."""
    losses = [loss for _, loss in mean_losses(model)]
    return max(losses) - min(losses)


def predicted(model, form):
    """ln(rate) by this form of the law."""
    (law,) = (own[0] for own in read_rates(BY_FORM[form]).laws if len(own[0].models) > 1)
    first = runs(model)[0]
    rows = pd.DataFrame([{"d_model": first.d_model, "n_tokens": first.n_tokens}])
    return float((law.design(rows, [model]) @ law.theta)[0])


def excludes(model, form):
    variance, dof = variance_of([parabola(m) for m in LAYERS])
    return excluded(parabola(model), predicted(model, form), variance, dof)


if __name__ == "__main__":
    for m in LAYERS:
        print(f"{m}: {len(runs(m))} of {N_RATES * len(SEEDS)} runs")
        for lr, loss in mean_losses(m):
            own = [f"{r.val_loss:.4f}" for r in runs(m) if r.lr == lr]
            print(f"  rate {lr:.3g}: {loss:.4f} of {', '.join(own)}")
    for m in LAYERS:
        at = parabola(m).lowest_at
        where = "mean at the best rate, as the parabola has no lowest point within the rates"
        if at is not None:
            where = f"at a rate of {math.exp(at + parabola(m).middle):.3g}"
        print(f"{m}: b {parabola(m).lowest[0]:.4f}, {where}")
        for form in BY_FORM:
            no = "excluded" if excludes(m, form) else "not excluded"
            print(f"  law of {form}: {math.exp(predicted(m, form)):.3g}, {no}")
    print("fine, registered:", fine(), f"own p {fine().p:.3g}")
    for kind in ("loss", *KINDS):
        own = of_means(kind)
        print(f"mean of all rates, {kind}: {own}, p {own.p:.2g}; over training:",
              *(f"{v:+.3f}" for v in over_training(kind)))  # fmt: skip
