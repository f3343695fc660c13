"""Best rate of each layer: readings of the searches in results/study/rates and rates_2.

All readings of the first are of the trials in results/study/rates (seed 0) and of the means of the
isoFLOP sweep at the rates used. A reading says what each layer gains at its best rate; a difference
of two layers moves by the difference of their gains. In nats/token:

- parabolas: one in ln(rate) through all trials of a cell (`analysis rates --method parabola`);
- skewed curves: `analysis rates` by default;
- lowest trials: the run at the rate used minus the lowest run of the cell;
- one curvature: parabolas with one curvature for all cells, through the trials within a factor of
  2.3 of the lowest.
"""

import json
import math
from functools import cache
from itertools import combinations

import numpy as np

from analysis.rates.fit import fit_rates
from analysis.rates.moves import compare_rates
from analysis.table.load import load_table
from tests.study.records import MODELS, RESULTS, SEEDED, by, find, records, seeds

NOISE = 0.021  # nats/token of one run: that of the study's seeds
NEAR = 2.3
BUDGETS = (1e13, 3e13)
CELLS = [(m, b) for b in BUDGETS for m in MODELS]
SHOWN = (("dense", 1e13), ("none", 1e13), ("dense", 3e13), ("none", 3e13))


@cache
def compared(method="parabola"):
    """Fit of the search, and what it moves."""
    fit = fit_rates(load_table(RESULTS / "rates"), method=method, noise=NOISE)
    return fit, compare_rates(fit, load_table(RESULTS / "isoflop"))


def gains(method="parabola"):
    """(model, budget): what its best rate gains."""
    return {(g.cell.model, g.cell.budget): g for g in compared(method)[1].gains}


def moves(budget):
    """(model, other): their difference at the best rates."""
    return {(m.model, m.other): m for m in compared()[1].moves if m.budget == budget}


def law(method="parabola", label="n_tokens"):
    """Its exponent of the tokens, with the ends; and by what it misses cells held out."""
    (found,) = (one for one in compared(method)[0].forms[-1].laws if one.label == label)
    if label == "constant":
        return found.held_out
    return found.exponents["n_tokens"], *found.bounds("exponent[n_tokens]"), found.held_out


@cache
def trials():
    """(model, budget): {rate: loss}."""
    cells = by("study/rates", "model", "budget")
    return {key: {r.lr: r.val_loss for r in own} for key, own in cells.items()}


def lowest(model, budget=1e13):
    return min(trials()[model, budget].values())


def used():
    """(model, budget): the rate of the isoFLOP sweep."""
    blocks = {b: find("study/isoflop", budget=b, n_layers=SEEDED[b]) for b in BUDGETS}
    return {(r.model, b): r.lr for b, own in blocks.items() for r in own}


def by_one_curvature():
    """Least squares of a level and a slope for each cell, and a curvature for all."""
    rows, found = [], []
    for i, cell in enumerate(CELLS):
        best = min(trials()[cell], key=trials()[cell].get)
        for lr, loss in trials()[cell].items():
            if 1 / NEAR <= lr / best <= NEAR:
                row = np.zeros(2 * len(CELLS) + 1)
                row[[i, len(CELLS) + i, -1]] = 1, math.log(lr), math.log(lr) ** 2
                rows.append(row)
                found.append(loss)
    p, *_ = np.linalg.lstsq(np.array(rows), np.array(found), rcond=None)
    slopes, curvature = p[len(CELLS) : -1], p[-1]
    best = dict(zip(CELLS, -slopes / (2 * curvature), strict=True))
    return {cell: curvature * (math.log(used()[cell]) - best[cell]) ** 2 for cell in CELLS}


@cache
def readings():
    """What each cell gains by each reading."""
    return [
        {cell: g.gain for cell, g in gains().items()},
        {cell: g.gain for cell, g in gains("slice").items()},
        {cell: trials()[cell][used()[cell]] - lowest(*cell) for cell in CELLS},
        by_one_curvature(),
    ]


def at_best(other, budget):
    """PEER minus another at the best rates, by each reading."""
    difference = seeds.minus("peer", other, budget)
    return [difference - of["peer", budget] + of[other, budget] for of in readings()]


def n_moved():
    """By each reading, how many differences of how many move by more than 0.01."""
    pairs = [(m, o, b) for b in BUDGETS for m, o in combinations(MODELS, 2)]
    moved = [[abs(of[m, b] - of[o, b]) > 0.01 for m, o, b in pairs] for of in readings()]
    return [(sum(own), len(pairs)) for own in moved]


def ends(cell):
    """Of the best rate's interval, as far as rates were tried."""
    low, high = cell.lr_interval
    if not 0 < low < high < math.inf:
        return "unbounded"
    if low < min(cell.lrs):
        return f"up to {rate(high)}"
    return f"from {rate(low)}" if high > max(cell.lrs) else f"{rate(low)} to {rate(high)}"


def rate(value):
    return f"{value * 1e3:.1f}e-3"


def cell(model, budget):
    """Rate used, the best with its interval, and what it gains."""
    found = gains()[model, budget]
    return rate(found.lr), f"{rate(found.cell.lr_opt)} ({ends(found.cell)})", f"{found.gain:.3f}"


def missed(model="peer", budget=1e13):
    """By what the parabola misses the run at the used rate."""
    found = gains()[model, budget]
    parabola = np.polyfit(np.log(found.cell.lrs), found.cell.losses, 2)
    return np.polyval(parabola, math.log(found.lr)) - seeds.at(model, budget)[0]


def falls():
    """By what factor each layer's best rate falls from 1e13 to 3e13."""
    best = {(c.model, c.budget): c.lr_opt for c in compared()[0].cells}
    return [best[m, 3e13] / best[m, 1e13] for m in MODELS]


def costs():
    """What twice the best rate costs by each cell's parabola."""
    curvature = [np.polyfit(np.log(c.lrs), c.losses, 2)[0] for c in compared()[0].cells]
    return [a * math.log(2) ** 2 for a in curvature]


def new_runs():
    """Those of the search that are of no earlier sweep."""
    known = {r.run_id for sweep in ("isoflop", "tuning") for r in records(f"study/{sweep}")}
    return [r for r in records("study/rates") if r.run_id not in known]


def near_and_far(model):
    """Of the trials at 3e13 by rate: all but the highest, and it."""
    *near, far = sorted(trials()[model, 3e13].items())
    return near, far


# the second edition's search

LAYERS = ("dense", "none", "moe_fine", "pkm", "peer")
OF_2 = (1e12, 3e12, 1e13)


@cache
def fits_2():
    """Cells, by layer and budget, and the law of all layers that was chosen."""
    read = json.loads((RESULTS / "rates_2" / "rates.json").read_text())
    cells = {(each["model"], each["budget"]): each for each in read["cells"]}
    (of_all,) = (form for form in read["forms"] if len(form["models"]) > 1)
    (chosen,) = (one for one in of_all["laws"] if one["label"] == of_all["chosen"])
    return cells, chosen


def by_law(layer, n_tokens):
    params = fits_2()[1]["params"]
    return params[f"coefficient[{layer}]"] * n_tokens ** params["exponent[n_tokens]"]


def inside(cell):
    return "outside the range" not in cell["flags"]


def row_2(layer, budget):
    """Trials, the lowest one's rate and loss, the best rate by its curve, the law's."""
    own = sorted(find("study/rates_2", model=layer, budget=budget), key=lambda r: r.val_loss)
    known = fits_2()[0][layer, budget]
    best = [known["lr_opt"]] if inside(known) else []
    lowest = own[0].lr, own[0].val_loss
    return [len(own), *lowest, *best, by_law(layer, known["at"]["n_tokens"])]


def off_law():
    """By what factor the law misses each best rate that is inside."""
    off = [
        abs(math.log(by_law(layer, each["at"]["n_tokens"]) / each["lr_opt"]))
        for (layer, _), each in fits_2()[0].items()
        if inside(each)
    ]
    assert len(off) == 14
    return math.exp(max(off))
