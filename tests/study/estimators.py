"""One difference of two layers by three estimators: `python -m tests.study.estimators`.

All are of the isoFLOP sweep's runs, in nats/token:

- means over seeds at dense's best size, with own noise (the answer of results/study/first.md);
- lowest points of the curves in results/study/isoflop/fits.json, the stars of its figure. The
  interval takes the two curves as independent: half-widths are added in quadrature;
- lowest points of curves that are fitted together, by `python -m analysis contrast` with the words
  of JOINT: one curvature for all layers and budgets, sizes of three blocks and more. In smaller
  ones the layer is in the first block. `moe` is left out, for its evaluation is not causal.
"""

import json
import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from analysis.contrast.compute import contrast
from analysis.table.load import load_table
from tests.study.committed import RESULTS, SEEDED, Difference, isoflop

PAIRS = (("peer", "dense"), ("peer", "none"), ("peer", "pkm"), ("none", "dense"))
ESTIMATORS = ("means at one size", "minima of the curves", "one joint fit")
JOINT = {
    "n_layers": ["3", "4", "5", "6", "7"],
    "model": ["dense", "none", "moe_fine", "pkm", "peer"],
}
CLASSES = {"sparse": ["peer", "moe_fine", "pkm"], "rest": ["dense", "none"]}


@dataclass(frozen=True, kw_only=True)
class Estimated:
    """A difference in nats/token with its 95 % interval, of any shape, and two-sided p."""

    value: float
    lower: float
    upper: float
    p: float

    def __str__(self):
        return f"{self.value:.3f} ({self.lower:.3f} to {self.upper:.3f})"


def paired(of, other):
    """Mean difference of two {seed: loss} over the seeds of both, by a paired t test."""
    seeds = sorted(of.keys() & other.keys())
    apart = np.array([of[seed] - other[seed] for seed in seeds])
    n = len(apart)
    error = apart.std(ddof=1) / math.sqrt(n)
    half = stats.t.ppf(0.975, n - 1) * error
    value = float(apart.mean())
    p = float(2 * stats.t.sf(abs(value) / error, n - 1))
    return Estimated(value=value, lower=value - half, upper=value + half, p=p)


def by_means(seeds):
    """(model, other, budget): their Difference."""
    return {(m, o, b): seeds.by_own(m, o, b) for m, o in PAIRS for b in SEEDED}


def by_curves():
    fits = json.loads((RESULTS / "isoflop" / "fits.json").read_text())
    curves = {(c["model"], _near(c["budget"])): c for c in fits["isoflop"]["curves"]}

    def half(curve):
        low, high = curve["loss_interval"]
        return (high - low) / 2

    found = {}
    for m, o in PAIRS:
        for b in SEEDED:
            mine, other = curves[m, b], curves[o, b]
            sd = math.hypot(half(mine), half(other)) / stats.norm.ppf(0.975)
            value = mine["loss_opt"] - other["loss_opt"]
            found[m, o, b] = Difference(
                value=value,
                half=float(stats.norm.ppf(0.975) * sd),
                p=float(2 * stats.norm.sf(abs(value) / sd)),
            )
    return found


def joint_fit(**options):
    """options: of analysis.contrast."""
    table = load_table(RESULTS / "isoflop", where=JOINT)
    asked = [f"{m}-{o}@{b:.0e}" for m, o in PAIRS for b in SEEDED]
    return contrast(
        table, layers=("peer",), baselines=("dense",), primary=asked, classes=CLASSES, **options
    )


def by_joint_fit(**options):
    compared = joint_fit(**options)
    found = {(d.layer, d.baseline, _near(d.budgets[0])): d for d in compared.differences}
    return {
        (m, o, b): Estimated(value=d.value.value, lower=d.value.lower, upper=d.value.upper, p=d.p)
        for m, o in PAIRS
        for b in SEEDED
        for d in [found[m, o, b]]
    }


def estimates(seeds):
    """Name of the estimator: its differences."""
    found = by_means(seeds), by_curves(), by_joint_fit()
    return dict(zip(ESTIMATORS, found, strict=True))


def rows(seeds):
    """Document's: what, estimator, and a cell a budget."""
    names = {"peer": "PEER", "none": "no layer", "pkm": "PKM", "dense": "dense"}
    return [
        [f"{names[m]} minus {names[o]}", estimator, *(str(found[m, o, b]) for b in SEEDED)]
        for m, o in PAIRS
        for estimator, found in estimates(seeds).items()
    ]


def _near(budget):
    return min(SEEDED, key=lambda b: abs(b - budget))


if __name__ == "__main__":
    for cells in rows(isoflop()):
        print("| " + " | ".join(cells) + " |")
