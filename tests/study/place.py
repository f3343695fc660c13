"""Stage *place* of the study's third edition, as results/study/edition_3/registration.md has it:
does it matter that the layer stands in the middle block?

Dense's runs of both places are the same run: all its blocks are dense. The registration overlooked
that. So the numbers are as registered, and `once` those in which each of these runs enters once.

    python -m tests.study.place
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy import stats

from tests.study.records import find

FIRST, THIRD = "study/edition_2", "study/edition_3"
LAYERS = ("dense", "none", "moe_fine", "pkm", "peer")
SPARSE = ("moe_fine", "pkm", "peer")
BUDGET, SIZE, SEEDS = 1e13, 4, (0, 1, 2)
MIDDLE, LAST = "middle", "last"


def _gains(model):
    """What a layer gains over none in the last block, minus what it gains in the middle one."""
    last = {("none", LAST): 1, (model, LAST): -1}
    return {**last, ("none", MIDDLE): -1, (model, MIDDLE): 1}


# Sums of means over seeds, each with its sign.
CONTRASTS = {
    "place of dense": _gains("dense"),
    "place of PEER": _gains("peer"),
    "place of the difference": {
        ("peer", LAST): 1, ("moe_fine", LAST): -1, ("peer", MIDDLE): -1, ("moe_fine", MIDDLE): 1,
    },
    "place of PKM": _gains("pkm"),
}  # fmt: skip
REGISTERED = tuple(CONTRASTS)[:3]


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """In nats/token. p: two-sided, before Holm's correction (third.py).

    tuned: whether no rate beside the law's is better by more than noise, of the layers that enter.
    """

    value: float
    lower: float
    upper: float
    p: float
    tuned: bool


def place_of(record):
    """Of a run of four blocks."""
    blocks = record.config["trunk"]["ffn_blocks"]
    return LAST if blocks == [SIZE - 1] else MIDDLE


def class_of(model):
    return "sparse" if model in SPARSE else "rest"


def _found(model, place):
    """Runs at the law's rate."""
    return [
        r
        for r in find(FIRST if place == MIDDLE else THIRD, model=model, n_layers=SIZE)
        if math.isclose(r.budget, BUDGET) and place_of(r) == place and r.config["optim"].get("law")
    ]


@cache
def runs(model, place):
    """Losses at the law's rate, by seed."""
    found = _found(model, place)
    assert tuple(r.seed for r in found) == SEEDS, (model, place, [r.seed for r in found])
    return [r.val_loss for r in found]


@cache
def beside(model):
    """Losses of the two other rates in the last block."""
    found = [
        r
        for r in find(THIRD, model=model, n_layers=SIZE, seed=0)
        if math.isclose(r.budget, BUDGET) and not r.config["optim"].get("law")
    ]
    assert len(found) == 2, (model, len(found))
    return [r.val_loss for r in found]


@cache
def noise(once=False):
    """Standard deviation of seeds about their cell's mean, and its degrees of freedom, by class."""
    cells = defaultdict(list)
    for sweep in (FIRST, THIRD):
        for r in find(sweep):
            if math.isclose(r.budget, BUDGET) and r.val_loss is not None and r.n_layers is not None:
                place = str(r.config["trunk"]["ffn_blocks"])
                if once and r.model == "dense" and sweep == THIRD:
                    continue
                rate = (r.config["optim"]["lr"], r.config["ladder"]["lr"])
                key = (r.model, place, r.n_layers, rate, r.config["ladder"]["batch_size"])
                cells[class_of(r.model), key].append(r.val_loss)
    squares, dof = defaultdict(float), defaultdict(int)
    for (name, _), losses in cells.items():
        if len(losses) > 1:
            squares[name] += float(np.var(losses) * len(losses))
            dof[name] += len(losses) - 1
    return {name: (math.sqrt(squares[name] / dof[name]), dof[name]) for name in squares}


def is_tuned(model):
    """Whether neither of the other rates is below the law's mean by more than noise."""
    s, _ = noise()[class_of(model)]
    limit = float(np.mean(runs(model, LAST))) - 2 * s * math.sqrt(1 + 1 / 3)
    return all(loss >= limit for loss in beside(model))


@cache
def contrast(name, once=False):
    parts = CONTRASTS[name]
    if once:
        parts = {cell: sign for cell, sign in parts.items() if cell[0] != "dense"}
    value = sum(sign * float(np.mean(runs(*cell))) for cell, sign in parts.items())
    each = defaultdict(float)  # variances by class
    for model, _ in parts:
        each[class_of(model)] += noise(once)[class_of(model)][0] ** 2 / len(SEEDS)
    variance = sum(each.values())
    dof = variance**2 / sum(v**2 / noise(once)[k][1] for k, v in each.items())  # Satterthwaite
    half = stats.t.ppf(0.975, dof) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(value) / math.sqrt(variance), dof))
    tuned = all(is_tuned(model) for model, place in parts if place == LAST)
    return Contrast(value=value, lower=value - half, upper=value + half, p=p, tuned=tuned)


def number(name, once=False):
    """Value and interval."""
    found = contrast(name, once)
    return found.value, found.lower, found.upper


def mean(model, place):
    return float(np.mean(runs(model, place)))


def is_one_run():
    """Whether dense's losses are those of the middle block, seed by seed."""
    return runs("dense", MIDDLE) == runs("dense", LAST)


def levels(place):
    """What the fused trunk computed by, over the runs at the law's rate of each layer."""
    return [{r.environment["trunk"] for r in _found(model, place)} for model in LAYERS]


if __name__ == "__main__":
    for k, (s, dof) in noise().items():
        print(f"noise of {k}: {s:.4f}, {dof} degrees of freedom")
    for model in LAYERS:
        means = [f"{np.mean(runs(model, place)):.4f}" for place in (MIDDLE, LAST)]
        print(f"{model}: middle {means[0]}, last {means[1]}")
        print(f"  other rates in the last {beside(model)}; tuned: {is_tuned(model)}")
    print("dense's runs are the same in both places:", is_one_run())
    print("each of them once:", contrast("place of dense", once=True))
    for name in CONTRASTS:
        c = contrast(name)
        kind = "registered" if name in REGISTERED else "exploratory"
        print(f"{name}, {kind}: {c.value:.4f} ({c.lower:.4f} to {c.upper:.4f}), own p {c.p:.3g}")
