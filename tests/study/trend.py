"""Stage *trend* of the study's third edition, as results/study/edition_3/registration.md has it:
does what PEER saves against no layer change with compute, if nothing is continued beyond a run?

    python -m tests.study.trend
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy import stats

from analysis.rates.saved import read_rates
from tests.study.place import class_of
from tests.study.records import find
from tests.study.second import BY_FORM

RUNS = ("study/edition_2", "study/edition_3")
MODELS, BUDGETS, BEYOND = ("none", "peer"), (1e13, 3e13, 1e14), 1.5e14
BATCH = 4
_STEP = 1e-5  # nats/token, of derivatives


@dataclass(frozen=True, kw_only=True)
class Slope:
    """Change of ln(multiplier) for a factor e of compute. p: two-sided, uncorrected."""

    value: float
    lower: float
    upper: float
    p: float


@cache
def runs():
    """Runs of both layers with the layer in the middle block, the law's rate and four sequences a
    step.
    """
    found = [r for sweep in RUNS for model in MODELS for r in find(sweep, model=model)]
    kept = [r for r in found if r.config["trunk"]["ffn_blocks"] == "middle"]
    kept = [r for r in kept if r.config["ladder"]["batch_size"] == BATCH]
    return tuple(r for r in kept if r.config["optim"].get("law"))


def cell_of(record):
    return record.model, record.n_layers, float(f"{record.budget:.2g}")


def cells(without=None):
    """Losses of the seeds of each cell."""
    found = defaultdict(list)
    for r in runs():
        if r.run_id != without:
            found[cell_of(r)].append(r.val_loss)
    return dict(found)


@cache
def pooled(score):
    """Standard deviation of seeds about their cell's mean, and its degrees of freedom, by class
    and budget: of the number that `score` gives of a record, or None.
    """
    found = defaultdict(list)
    for sweep in RUNS:
        for r in find(sweep):
            if (value := score(r)) is not None:
                rate = (r.config["optim"]["lr"], r.config["ladder"]["lr"])
                place = str(r.config["trunk"]["ffn_blocks"])
                batch = r.config["ladder"]["batch_size"]
                found[*cell_of(r), place, rate, batch].append(value)
    squares, dof = defaultdict(float), defaultdict(int)
    for (model, _, budget, *_), losses in found.items():
        if len(losses) > 1:
            squares[class_of(model), budget] += float(np.var(losses) * len(losses))
            dof[class_of(model), budget] += len(losses) - 1
    return {key: (math.sqrt(squares[key] / dof[key]), dof[key]) for key in squares}


def loss_of(record):
    return record.val_loss


def noise():
    """Noise of the loss (pooled); 1.5e14 has that of 1e14."""
    known = pooled(loss_of)
    return known | {(name, BEYOND): known[name, 1e14] for name in ("sparse", "rest")}


def multiplier(means, size, budget):
    """ln M of a size at a budget; None where PEER's loss is not between two losses of none."""
    loss = means["peer", size, budget]
    line = sorted((c, x) for (model, n, c), x in means.items() if model == "none" and n == size)
    for (c0, x0), (c1, x1) in pairwise(line):
        if min(x0, x1) <= loss <= max(x0, x1):
            at = math.log(c0) + math.log(c1 / c0) * (loss - x0) / (x1 - x0)
            return at - math.log(budget)
    return None


def multipliers(means):
    """ln M by budget and size, of the cells that can be used."""
    found = {c: {} for c in BUDGETS}
    for model, size, budget in sorted(means):
        if model == "peer" and (value := multiplier(means, size, budget)) is not None:
            found[budget][size] = value
    return found


def slope(means):
    """By least squares of the budgets; None if one has no cell that can be used."""
    found = multipliers(means)
    if not all(found.values()):
        return None
    y = [float(np.mean([*own.values()])) for own in found.values()]
    return float(np.polyfit(np.log(BUDGETS), y, 1)[0])


@cache
def rates_of(form):
    """The saved laws of rates, of this form alone."""
    return read_rates(BY_FORM[form])


def error_of_rates(form, by):
    """As `contrast --rates` adds it: an interval reaches as far as 95 % of the draws move it."""
    first = {cell_of(r): r for r in reversed(runs())}
    rows = pd.DataFrame(
        [
            {
                "series": cell[0], "model": cell[0], "budget": cell[2], "lr": first[cell].lr,
                "d_model": first[cell].d_model, "n_tokens": first[cell].n_tokens,
            }
            for cell in by
        ]
    )  # fmt: skip
    moved = rates_of(form).costs(rows) @ np.array([*by.values()])
    return float(np.quantile(np.abs(moved), 0.95)) / stats.norm.ppf(0.975)


@cache
def trend(form, without=None):
    """Slope with its interval, by the delta method; None if a budget has no cell."""
    losses = cells(without)
    means = {cell: float(np.mean(own)) for cell, own in losses.items()}
    value = slope(means)
    if value is None:
        return None
    by = {}
    for cell in means:
        ends = [slope({**means, cell: means[cell] + sign * _STEP}) for sign in (1, -1)]
        by[cell] = (ends[0] - ends[1]) / (2 * _STEP)
    each = defaultdict(float)
    for cell, d in by.items():
        key = class_of(cell[0]), cell[2]
        key = (key[0], 1e14) if key[1] == BEYOND else key  # one estimate
        each[key] += (d * noise()[key][0]) ** 2 / len(losses[cell])
    of_noise = sum(each.values())
    variance = of_noise + error_of_rates(form, by) ** 2  # rates: known, as contrast has them
    dof = variance**2 / sum(v**2 / noise()[key][1] for key, v in each.items() if v)
    half = float(stats.t.ppf(0.975, dof)) * math.sqrt(variance)
    p = 2 * float(stats.t.sf(abs(value) / math.sqrt(variance), dof))
    return Slope(value=value, lower=value - half, upper=value + half, p=p)


def registered(without=None):
    """Largest p of the three forms, and the interval that holds all three."""
    found = [trend(form, without) for form in BY_FORM]
    if found[0] is None:
        return None
    return Slope(
        value=found[0].value,
        lower=min(one.lower for one in found),
        upper=max(one.upper for one in found),
        p=max(one.p for one in found),
    )


def slope_of_all():
    found = registered()
    return found.value, found.lower, found.upper


def mean_of(*cell):
    return float(np.mean(cells()[cell]))


def saved():
    """Factors of compute of each cell that is used, by budget and size."""
    means = {cell: float(np.mean(own)) for cell, own in cells().items()}
    return {c: {n: math.exp(x) for n, x in own.items()} for c, own in multipliers(means).items()}


@cache
def without_each():
    """Uncorrected p without each run, or None where a budget is then without a cell."""
    return {r.run_id: (one := registered(r.run_id)) and one.p for r in runs()}


if __name__ == "__main__":
    for cell, own in sorted(cells().items()):
        print(cell, " ".join(f"{loss:.4f}" for loss in own))
    for key, (s, dof) in sorted(noise().items()):
        print(f"noise of {key[0]} at {key[1]:g}: {s:.4f}, {dof} degrees of freedom")
    print("multipliers", saved())
    for form in BY_FORM:
        print(form, trend(form))
    print("registered", registered())
    for run_id, p in without_each().items():
        print("without", run_id, p)
