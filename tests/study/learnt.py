"""Numbers of docs/growth.md, retrofit.md, lifelong.md and adapters.md: of trained models."""

import json
import math
from collections import defaultdict
from functools import cache
from itertools import permutations

import numpy as np
from scipy import stats

from analysis import numbers
from analysis.adaptation import columns_of_starts, compare_adaptations
from analysis.comparison import shown
from analysis.forgetting.compare import compare_forgetting
from analysis.forgetting.equal import _at, _curves
from analysis.forgetting.ways import find_way, read_order
from analysis.growth import COLUMNS, compare_growth
from analysis.table.load import load_table
from tests.study.records import ROOT, records, student

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
    """Share that growing by `bias` closes."""
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
    """First order of seed 0, which has all rates."""
    own = [r for r in records("lifelong/streams") if r.seed == 0]
    own = [r for r in own if read_order(r)[0] == "licences" and len(read_order(r)) == 6]
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
    own = [(find_way(r), r) for r in records("lifelong/streams")]
    rates = {name: WAYS[name] for name in ("dense", FULL, f"{FULL}, replay 0.05")}
    return {
        (name, r.seed, tuple(read_order(r)))
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
        found[ways.index(find_way(r).removesuffix(", one domain")), r.lr] = r.lr, *scores
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
    """Report's runs have one seed, begin with its base and are of its adapters."""
    runs = {r.run_id: r for r in records("adapters/domains")}
    named = [runs[run_id] for run_id in report["runs"]]
    domains = [r.config["data"]["corpus"]["domain"] for r in named]
    bases = {r.init["sha256"] for r in named}
    later = [*report["adapters"], report["later"]["name"]]
    return bases == {report["base"]} and len({r.seed for r in named}) == 1 and domains == later
