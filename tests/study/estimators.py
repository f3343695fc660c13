"""One difference of two layers by three estimators, of the isoFLOP sweep's runs, in nats/token:

- means over seeds at dense's best size, with own noise (the answer of results/study/first.md);
- lowest points of the curves in results/study/isoflop/fits.json, the stars of its figure. The
  interval takes the two curves as independent: half-widths are added in quadrature;
- lowest points of curves that are fitted together, by `python -m analysis compare` with the words
  of JOINT: one curvature for all layers and budgets, sizes of three blocks and more. In smaller
  ones the layer is in the first block. `moe` is left out, for its evaluation is not causal.
"""

import json
import math
from functools import cache

from scipy import stats

from analysis.contrast.compute import compute_contrasts
from analysis.table.load import load_table
from tests.study.records import MODELS, RESULTS, SEEDED, Interval, seeds, student

PAIRS = (("peer", "dense"), ("peer", "none"), ("peer", "pkm"), ("none", "dense"))
JOINT = {
    "n_layers": ["3", "4", "5", "6", "7"],
    "model": ["dense", "none", "moe_fine", "pkm", "peer"],
}
CLASSES = {"sparse": ["peer", "moe_fine", "pkm"], "rest": ["dense", "none"]}


@cache
def fits():
    return json.loads((RESULTS / "isoflop" / "fits.json").read_text())


def curve(model, budget):
    """Its fit: loss_opt, loss_interval."""
    return next(
        c
        for c in fits()["isoflop"]["curves"]
        if c["model"] == model and abs(c["budget"] / budget - 1) < 0.1
    )


def by_curves(model, other, budget):
    mine, theirs = curve(model, budget), curve(other, budget)
    halves = [(c["loss_interval"][1] - c["loss_interval"][0]) / 2 for c in (mine, theirs)]
    sd = math.hypot(*halves) / stats.norm.ppf(0.975)
    return student(mine["loss_opt"] - theirs["loss_opt"], sd, math.inf)


@cache
def joint_fit(**options):
    """By analysis.contrast. options: of it."""
    table = load_table(RESULTS / "isoflop", where=JOINT)
    asked = [f"{m}-{o}@{b:.0e}" for m, o in PAIRS for b in SEEDED]
    return compute_contrasts(
        table, layers=("peer",), baselines=("dense",), primary=asked, classes=CLASSES, **options
    )


def by_joint_fit(model, other, budget, **options):
    return _interval(_difference(joint_fit(**options), model, other, budget))


def _difference(fit, model, other, budget):
    return next(
        d
        for d in fit.differences
        if (d.layer, d.baseline) == (model, other) and abs(d.budgets[0] / budget - 1) < 0.1
    )


def _interval(d):
    return Interval(value=d.value.value, lower=d.value.lower, upper=d.value.upper, p=d.p)


def three(model, other, budget):
    """Difference by each estimator."""
    return [each(model, other, budget) for each in (seeds.by_own, by_curves, by_joint_fit)]


def significant_by(model, other, budget):
    return [each.p < 0.05 for each in three(model, other, budget)]


def largest():
    """Budget of PEER's largest lead over dense by each estimator."""
    of = {b: [d.value for d in three("peer", "dense", b)] for b in SEEDED}
    return [min(SEEDED, key=lambda b, i=i: of[b][i]) for i in range(3)]


def warned(start):
    """A warning of the joint fit that begins so."""
    (found,) = (text for text in joint_fit().warnings if text.startswith(start))
    return found


def lowest_of_curve(model):
    """Of its curve at 3e12."""
    return curve(model, 3e12)["loss_opt"]


def multipliers_of_laws():
    """PEER's of the report's figure."""
    assert fits()["multipliers"]["slopes"] == "own"
    return [each for each in fits()["multipliers"]["at"] if each["model"] == "peer"]


@cache
def together():
    """Baseline and budget: PEER's difference, by curves of all layers."""
    table = load_table(RESULTS / "isoflop", where=JOINT)
    found = compute_contrasts(table, layers=["peer"], classes=CLASSES)
    return {(d.baseline, round(d.budgets[0], -10)): d for d in found.differences}


def below_by_curves(model):
    """Layers whose curve is lower at 3e12."""
    return {m for m in MODELS if lowest_of_curve(m) < lowest_of_curve(model)}
