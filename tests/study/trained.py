"""Numbers of docs/performance.md, branches.md and parametrization.md: of how runs are trained."""

import math
from collections import defaultdict
from functools import cache

import numpy as np

from analysis.rates.fit import fit_rates
from analysis.table.load import load_table
from tests.study.records import RESULTS, by, find, losses, records, seeds, student

# docs/performance.md

PRECISE = ("dense", "moe_fine", "pkm", "peer")


def precision(name, **where):
    """Losses in float32 or bf16, of seeds 0 to 4."""
    found = find(f"study/precision_{name}", **where)
    wanted = {"float32": "32-true", "bf16": "bf16-mixed"}[name]
    assert {r.precision for r in found} == {wanted}
    assert {r.environment["trunk"] for r in found} == {"fused avx512_bf16"}
    return np.array([r.val_loss for r in found])


def rounding(*models):
    """bfloat16's loss less float32's at 3e12, with its interval: pairs of all seeds."""
    d = np.concatenate([precision("bf16", model=m, budget=3e12)
                        - precision("float32", model=m, budget=3e12) for m in models])  # fmt: skip
    return student(d.mean(), d.std(ddof=1) / len(d) ** 0.5, len(d) - 1)


# docs/branches.md

PILOT_BUDGETS = (3e12, 1e13, 3e13)
PILOT = {"dense": (3.5e-3, 5e-3, 7e-3), "peer": (3.9e-3, 5.5e-3, 7.7e-3)}
PILOT_CELLS = [(m, b) for m in PILOT for b in PILOT_BUDGETS]


def branches(model, budget):
    """Losses at the three rates."""
    own = [r for r in find("study/wsd_pilot", model=model, budget=budget) if r.trunk]
    found = {r.config["ladder"]["lr"]: r.val_loss for r in own}
    assert len(own) == 3
    return [found[lr] for lr in PILOT[model]]


def cosine(model, budget):
    (loss,) = losses("study/isoflop", model=model, budget=budget, n_layers=4, seed=0)
    return loss


def from_cosine(model, budget):
    return [loss - cosine(model, budget) for loss in branches(model, budget)]


def lead(budget):
    """PEER minus dense, by cosine and by the best branches."""
    by_cosine = cosine("peer", budget) - cosine("dense", budget)
    return by_cosine, min(branches("peer", budget)) - min(branches("dense", budget))


def noise_of_two():
    """A difference of two runs over seeds."""
    return math.sqrt(2 * np.mean([seeds.pooled(b) for b in PILOT_BUDGETS]))


def best_branch_rates(model):
    return [PILOT[model][int(np.argmin(branches(model, b)))] for b in PILOT_BUDGETS]


def best_cosine(model):
    """Of the search of rates at 1e13."""
    return losses("study/rates", model=model, budget=1e13).min()


def above_cosine(model):
    """Best branch at 1e13, above the best cosine run."""
    return min(branches(model, 1e13)) - best_cosine(model)


def saved():
    """FLOPs of trunks and branches, of runs from scratch, and the per cent saved."""
    trunks, own = find("study/wsd_pilot", schedule="trunk"), records("study/wsd_pilot")
    own = [r for r in own if r.trunk]
    assert (len(trunks), len(own)) == (6, 18)
    paid = sum(r.achieved_flops for r in trunks) + sum(r.trunk["own_flops"] for r in own)
    whole = sum(r.achieved_flops for r in own)
    return paid, whole, 100 * (1 - paid / whole)


def alike():
    """Settings of the pilot at 1e13 are those of the cosine runs, but for the schedule."""
    runs = {r.run_id: r for r in records("study/isoflop")}
    named = {"dense": "586d34796916", "peer": "00f04b5673c8"}
    for r in find("study/wsd_pilot", budget=1e13):
        other = runs[named[r.model]]
        for part in ("ladder", "model", "data", "trunk") if r.trunk else ():
            mine, theirs = r.config[part], other.config[part]
            same = {k for k in mine.keys() & theirs.keys() if k != "lr"}
            if {k: mine[k] for k in same} != {k: theirs[k] for k in same}:
                return False
        counts = [(x.n_params, x.batch_tokens, x.n_steps) for x in (r, other)]
        if r.trunk and counts[0] != counts[1]:
            return False
    return True


# docs/parametrization.md

COLUMNS_OF_RATES = (("sp", 32), ("mup", 64), ("mup", 128), ("sp", 64), ("sp", 128))


@cache
def muon():
    """Cells' parabolas by their name."""
    series = ["model", "optim.matrices"]
    table = load_table(RESULTS / "muon", series=series, keep=["batch_tokens"])
    return {c.model: c for c in fit_rates(table, method="parabola", noise=0.015).cells}


@cache
def same_setting(model):
    """{optimizer: (loss, rate, sweep) of each run} of seed 0 and of the setting of Muon's."""
    first = find("study/muon", model=model)[0]
    found = defaultdict(list)
    for sweep in ("muon", "tuning", "isoflop"):
        own = {"model": model, "n_params": first.n_params, "n_tokens": first.n_tokens, "seed": 0}
        for r in find(f"study/{sweep}", **own):
            ours = sweep == "muon" and r.config["optim"]["matrices"] == "muon"
            found["muon" if ours else "adamw"].append((r.val_loss, r.config["ladder"]["lr"], sweep))
    return found


def lowest_run(model, optimizer):
    return min(same_setting(model)[optimizer])[0]


def muon_leads(less=0.0, unit=1.0):
    """Lowest runs of Muon below those of AdamW: dense, PEER."""
    both = [lowest_run(m, "adamw") - lowest_run(m, "muon") for m in ("dense", "peer")]
    return [(each - less) / unit for each in both]


def muon_flops(n, m):
    """Five iterations a X + (b A + c A²) X with A = X Xᵀ, X of n x m: products alone."""
    n, m = sorted((n, m))
    return 5 * (2 * n * n * m + 2 * n**3 + 2 * n * n * m)


def muon_share(model, d=48):
    """Of a run's FLOPs."""
    record, n_dense = find("study/muon", model=model)[-1], 3 - (model == "peer")
    step = 3 * (muon_flops(3 * d, d) + muon_flops(d, d)) + n_dense * 2 * muon_flops(4 * d, d)
    step += (model == "peer") * muon_flops(d, 4 * 32)  # its queries
    return step * record.n_steps / record.achieved_flops


def worth_of_compute():
    """What Muon's part of dense's FLOPs would be worth, by dense's losses at 3e12 and 1e13."""
    means = [losses("study/isoflop", model="dense", budget=b, n_layers=n).mean()
             for b, n in ((3e12, 3), (1e13, 4))]  # fmt: skip
    return (means[0] - means[1]) * math.log(1 + muon_share("dense")) / math.log(10 / 3)


@cache
def transfer():
    """(model, parametrization, width): {rate: losses of two seeds}."""
    found = defaultdict(dict)
    cells = by("study/transfer", "model", "parametrization", "width", "rate")
    for (*cell, lr), own in cells.items():
        found[tuple(cell)][lr] = [r.val_loss for r in own]
    assert {len(x) for cell in found.values() for x in cell.values()} == {2}
    return found


@cache
def best_of_widths():
    """(rate, loss) of the parabolas by (model, parametrization, width); None without."""
    table = load_table(RESULTS / "transfer", series=["model", "optim.parametrization"])
    found = {}
    for cell in fit_rates(table, width="d_model", method="parabola").cells:
        model, parametrization = cell.model.split(" ")
        d = int(cell.at["d_model"])
        nominal = math.sqrt(d / 32) if parametrization == "sp" else 1  # lr_width_exponent
        best = (cell.lr_opt * nominal, cell.loss_opt) if cell.inside else None
        found[model, parametrization, d] = best
    return found


def best_rates(model):
    best = [best_of_widths()[model, *column] for column in COLUMNS_OF_RATES]
    return [f"{one[0]:.4f}" if one else "none" for one in best]


def rates_moved(*column):
    """Best rates as shares of the base's."""
    of = best_of_widths()
    return [of[m, *column][0] / of[m, "sp", 32][0] for m in PRECISE if of[m, *column]]


def minima_apart():
    """`mup` minus `sp` at width 128, of each layer."""
    of = best_of_widths()
    return [of[m, "mup", 128][1] - of[m, "sp", 128][1] for m in PRECISE]


def means_of(model, *column):
    return {lr: sum(x) / 2 for lr, x in sorted(transfer()[model, *column].items())}


def carried(kind):
    """What the base's best rate costs at width 128, of each layer."""
    found = []
    for model in PRECISE:
        base, own = means_of(model, "sp", 32), means_of(model, kind, 128)
        found.append(own[min(base, key=base.get)] - min(own.values()))
    return found


def steps_below(model):
    """By how many rates tried the best at width 128 under `mup` is below the base's, and what one
    step from the best costs.
    """
    base, own = means_of(model, "sp", 32), means_of(model, "mup", 128)
    rates = list(own)
    low = rates.index(min(own, key=own.get))
    return rates.index(min(base, key=base.get)) - low, own[rates[low + 1]] - own[rates[low]]


def noise_of_transfer():
    pairs = [x for cell in transfer().values() for x in cell.values()]
    return math.sqrt(sum((a - b) ** 2 / 2 for a, b in pairs) / len(pairs))
