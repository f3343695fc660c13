"""Numbers of documents beside the study's: growth, retrofit, streams, adapters, precision."""

import json
import math
from collections import defaultdict
from functools import cache
from itertools import permutations

import numpy as np
from scipy import stats

from analysis import numbers
from analysis.adaptation import columns_of_starts, compare_adaptations
from analysis.forgetting.compare import compare_forgetting
from analysis.forgetting.equal import _at, _curves
from analysis.forgetting.ways import order_of, way_of
from analysis.growth import COLUMNS, compare_growth
from analysis.rates.fit import fit_rates
from analysis.table.load import load_table
from analysis.ways import shown
from tests.study.records import RESULTS, ROOT, by, find, losses, records, seeds, student

# docs/growth.md


@cache
def growth(folder="square"):
    return compare_growth(load_table(ROOT / "results" / "growth" / folder, keep=COLUMNS))


@cache
def grown():
    """By (how, the parent's experts, own experts, seed); how is None throughout."""
    of = {r.run_id: r for r in records("growth/square")}
    found = {}
    for r in of.values():
        if r.init or r.budget == 1e13:  # else a parent
            small = of[r.init["parent"]["run_id"]].n_experts if r.init else None
            found[r.init["how"] if r.init else None, small, r.n_experts, r.seed] = r
    return found


def closed(small, seed):
    """The share that growing by `bias` closes."""
    low, high = (grown()[None, None, n, seed].val_loss for n in (small, 16384))
    return (low - grown()["bias", small, 16384, seed].val_loss) / (low - high)


def grown_by(how=None, seed=None):
    """All that were grown."""
    return [r for (own, *_, s), r in grown().items()
            if own and how in (None, own) and seed in (None, s)]  # fmt: skip


def losses_of_seven():
    """Of single runs, which are not in the repository: the document's."""
    table = (ROOT / "docs" / "growth.md").read_text().partition("\n| | loss |\n|---|---|\n")[2]
    return [float(row.split(" | ")[1].strip(" |")) for row in table.split("\n\n")[0].splitlines()]


def even_use():
    """Rank correlation of loss and unevenness of those by `bias`, and its p of all orders."""
    own = grown_by("bias")
    uneven, of_own = [r.unevenness for r in own], [r.val_loss for r in own]
    of = [stats.spearmanr(each, uneven).statistic for each in permutations(of_own)]
    return of[0], sum(abs(rho) >= of[0] - 1e-9 for rho in of) / len(of)


def uneven(found):
    return sorted(r.unevenness for r in found)


def throughout(n_experts):
    return [r for (how, _, n, _), r in grown().items() if how is None and n == n_experts]


def started_as_parents(folder):
    """Grown runs began with their parents' losses, text and seed, at half of the FLOPs."""
    of = {r.run_id: r for r in records(f"growth/{folder}")}
    found = [(r, of[r.init["parent"]["run_id"]]) for r in of.values() if r.init]
    return len(found) >= 2 and all(
        r.before["validation"]["loss"] == parent.val_loss
        and r.config["data"]["skip_steps"] == parent.n_steps
        and r.seed == parent.seed
        and (r.init["how"] == "beside" or r.init["moments"])
        and abs((parent.achieved_flops + r.achieved_flops) / 1e13 - 1) < 0.01
        and r.init["parent"]["flops"] == parent.achieved_flops
        for r, parent in found
    )


# docs/retrofit.md

SWEEPS_OF_RETROFIT = [f"retrofit/{name}" for name in ("recipes", "hpo", "replace", "tuning")]


@cache
def retrofit(sweep):
    table = load_table(ROOT / "results" / "retrofit" / sweep, keep=columns_of_starts("wikitext2"))
    return compare_adaptations(table).ways


def by_gain(sweep):
    return sorted(retrofit(sweep), key=lambda way: -way.gain.value)


def adapted(way):
    """Seeds, trained parameters, FLOPs, gain and change, as text."""
    counts = str(way.n_seeds), numbers.count(way.n_trained_params), numbers.flops(way.flops)
    both = (numbers.with_interval(*of, signed=True) for of in (way.gain, way.change))
    return *counts, *both


def replaced(n_tokens, whole=3.3646):
    """FLOPs of the start and the loss before training, of PEER instead of an FFN; minus `whole`."""
    asked = [r for r in records("retrofit/replace") if _distilled(r) == n_tokens]
    assert len(asked) == 3
    assert all(_distilled(r) >= r.config["init"]["distil_tokens"] for r in asked)
    flops = numbers.flops(asked[0].init["flops"]) if n_tokens else "0"
    own = np.array([r.before["validation"]["loss"] for r in asked])
    more = student(own.mean() - whole, own.std(ddof=1) / 3**0.5, 2)
    return flops, f"{own.mean():.4f}", numbers.with_interval(*more, signed=True)


def _distilled(record):
    of = record.config["init"]["distil_tokens"]
    return record.init["distilled"]["14"]["n_tokens"] if of else 0  # whole batches


def _way(record):
    return {"lora": "LoRA", "all": "full", "layer": record.model}[record.init["train"]]


def best_rate(way):
    """Of the tuning, between two worse ones; and of all runs of recipes the only one."""
    tuned = {r.config["ladder"]["lr"]: r.val_loss for r in records("retrofit/tuning")
             if _way(r) == way}  # fmt: skip
    best = min(tuned, key=tuned.get)
    used = {r.config["ladder"]["lr"] for r in records("retrofit/recipes") if _way(r) == way}
    return best not in (min(tuned), max(tuned)) and used <= {best} and best


# docs/lifelong.md

FULL = "peer 16,384"
TOP_256 = "tables alone, top 256 rows"
WAYS = {  # the document's, with their rates
    "dense": 5e-4, FULL: 5e-4, f"{FULL}, replay 0.05": 5e-4, f"{FULL}, distillation 1": 1e-2,
    f"{FULL}, LoRA": 3e-2, f"{FULL}, tables alone": 1e-2,
    f"{FULL}, tables alone, top 1024 rows": 3e-2, f"{FULL}, layer alone, beside": 3e-3,
    f"{FULL}, joint": 3e-3, f"{FULL}, one domain": 3e-3,
}  # fmt: skip


@cache
def forgetting(learning=0.92, baseline=FULL):
    return compare_forgetting(records("lifelong/streams"), learning=learning, baseline=baseline)


def way(name):
    """Streams, and what is learnt, forgotten and lost on the base, as text."""
    (found,) = (w for w in forgetting().ways if (w.way, w.lr) == (name, WAYS[name]))
    return f"{found.lr:g}", *_cells(found.n_runs, found.learning, found.forgetting, found.base)


def _cells(n, *values):
    return [str(n), *(shown(value) for value in values if shown(value))]


def equal(name, learning=0.92, baseline=FULL):
    (found,) = (w for w in forgetting(learning, baseline).equal.ways if w.way == name)
    return found


def at_equal(name):
    """Streams, and both losses with their differences to full fine-tuning, as text."""
    found = equal(name)
    less = (found.forgetting_less, found.base_less) if name != FULL else ()
    return _cells(found.n_streams, found.forgetting, found.base, *less)


def lora():
    """Beside the tables, where it has learnt as much."""
    return equal(f"{FULL}, LoRA", 0.51, f"{FULL}, tables alone")


def by_order(one, other, learning, which):
    """By the order of the domains: how much less the second forgets or loses, a list a stream."""
    curves = _curves(records("lifelong/streams"))
    a, b = (_at(curves[name], learning) for name in (one, other))
    found = defaultdict(list)
    for stream in a.keys() & b.keys():
        found[stream[1]].append(a[stream][which] - b[stream][which])
    return [np.mean(own) for own in sorted(found.values(), key=lambda x: (-len(x), -np.mean(x)))]


def replay_by_order(which):
    """0: forgetting, 1: base. Three values, Student's t of two degrees of freedom."""
    less = np.array(by_order(FULL, f"{FULL}, replay 0.05", 0.92, which))
    assert len(less) == 3
    found = student(less.mean(), less.std(ddof=1) / math.sqrt(3), 2)
    name = ("forgetting", "base")[which]
    printed = getattr(equal(f"{FULL}, replay 0.05"), f"{name}_less_by_order")
    np.testing.assert_allclose(tuple(printed), (-found.value, -found.upper, -found.lower))
    return sorted(less, reverse=True), found


@cache
def one_stream(learning=None):
    """The first order of seed 0, which has all rates."""
    own = [r for r in records("lifelong/streams") if r.seed == 0]
    own = [r for r in own if order_of(r)[0] == "licences" and len(order_of(r)) == 6]
    return compare_forgetting(own, **({"learning": learning} if learning else {}))


def most(name):
    """Learnt by a way of that stream."""
    return max(w.learning.value for w in one_stream().ways if w.way == name)


def of_stream(name, *of, learning=None):
    found = one_stream(learning)
    (one,) = (w for w in (found.equal.ways if learning else found.ways) if w.way == name)
    return [getattr(one, each).value for each in of]


def streams():
    """Of each way with three orders of three seeds, at its rate."""
    names = [name for name in WAYS if name.partition(", ")[2] not in ("joint", "one domain")]
    own = [(way_of(r), r) for r in records("lifelong/streams")]
    rates = {name: WAYS[name] for name in ("dense", FULL, f"{FULL}, replay 0.05")}
    return {
        (name, r.seed, tuple(order_of(r)))
        for name, r in own
        if name in names and r.config["ladder"]["lr"] == rates.get(name, r.config["ladder"]["lr"])
    }


def facts():
    """Of each way by its rates: held in, bits a byte, held out, what is lost on the base."""
    ways = [FULL, *(f"{FULL}, {name}" for name in ("LoRA", "tables alone", TOP_256)), "dense"]
    found = {}
    for r in records("lifelong/facts"):
        inside, outside = (r.evaluations[f"tasks/facts_held_{name}"] for name in ("in", "out"))
        start, end = (r.stages[i]["scores"]["base"]["bits_per_byte"] for i in (0, -1))
        scores = inside["acc"], inside["bits_per_byte"], outside["acc"], end - start
        found[ways.index(way_of(r).removesuffix(", one domain")), r.lr] = r.lr, *scores
    return [found[key] for key in sorted(found)]


# docs/adapters.md


@cache
def reports():
    folder = ROOT / "results" / "adapters" / "study"
    return [json.loads(path.read_text()) for path in sorted(folder.glob("seed*.json"))]


def above_base(way, domain="packages/bbc_news"):
    """Of each seed."""
    return sorted(r["losses"][way][domain] - r["losses"]["base"][domain] for r in reports())


def moved_by_later():
    """How far the text that changes most is moved by an adapter more, of each seed."""
    found = []
    for report in reports():
        before, after, name = (report["later"][key] for key in ("without", "with", "name"))
        found.append(max(abs(after[d] - before[d]) for d in before if d != name))
    return found


def of_committed_runs(report):
    """The report's runs have one seed, begin with its base and are of its adapters."""
    runs = {r.run_id: r for r in records("adapters/domains")}
    named = [runs[run_id] for run_id in report["runs"]]
    domains = [r.config["data"]["corpus"]["domain"] for r in named]
    bases = {r.init["sha256"] for r in named}
    later = [*report["adapters"], report["later"]["name"]]
    return bases == {report["base"]} and len({r.seed for r in named}) == 1 and domains == later


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
    """The best branch at 1e13, above the best cosine run."""
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
    """The settings of the pilot at 1e13 are those of the cosine runs, but for the schedule."""
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
    """The cells' parabolas by their name."""
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
    """The lowest runs of Muon below those of AdamW: dense, PEER."""
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
    """The best rates as shares of the base's."""
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
