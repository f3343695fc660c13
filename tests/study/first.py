"""Numbers of results/study/first.md: the first edition's noise, sizes, seconds, experts, causes."""

import json
import math
from collections import Counter, defaultdict
from functools import cache

import numpy as np
from scipy import stats

from analysis.differences.models import compare_models
from analysis.figures.seconds import training_seconds
from analysis.multiplier.fit import compute_multipliers
from analysis.table.load import load_table
from tests.study.planned import planned
from tests.study.records import (
    MODELS,
    RESULTS,
    SEEDED,
    Seeds,
    by,
    column,
    find,
    one_loss,
    records,
    seeds,
    student,
    welch,
)

SWEEPS = ("tuning", "isoflop", "experts", "causes")
FOREIGN = ("hpo", "mueller", "recipes")
BASE = ("dense", "none", "pkm")
USUAL = {"heads": 4, "top_k": 16, "query_norm": "batch"}  # of PEER
mean, minus, at = seeds.mean, seeds.minus, seeds.at


@cache
def distinct():
    """The 252 runs: six of the isoFLOP sweep are also runs of the experts' sweep."""
    of_all = [r for name in SWEEPS for r in records(f"study/{name}")]
    return list({r.run_id: r for r in sorted(of_all, key=lambda r: r.sweep)}.values())


@cache
def one(model, budget, n_experts=None, n_layers=None):
    """A run at that budget's seeded size, of the settings compared."""
    more = {"n_experts": n_experts, **USUAL} if n_experts else {}
    sweep = "study/experts" if n_experts else "study/isoflop"
    where = {"model": model, "budget": budget, "n_layers": n_layers or SEEDED[budget]}
    return find(sweep, **where, **more)[0]


# plans


def apart_from_rate(point):
    """Settings of the optimizer that are the same for all."""
    o = point.config.optim
    return (o.table_lr, o.key_lr, o.weight_decay, o.beta2, o.warmup, o.grad_clip, o.schedule)


def rates_tuned():
    """(model, gate): the rates that were planned at 3e12."""
    found = defaultdict(set)
    for p in planned("study_tuning"):
        if p.config.budget == 3e12:
            found[layer(p.config)].add(p.config.ladder.lr)
    return found


def layer(config):
    return config.model_name, getattr(config.model, "gate", None)


@cache
def best_tuned():
    """Of each model, the gate and rate of the lowest run: a parabola's lowest point, two digits."""
    found = {}
    for (model, gate), own in by("study/tuning", "model", "gate", budget=3e12).items():
        of = {column(r, "rate"): r.val_loss for r in own}
        a, b, _ = np.polyfit(np.log([*of]), [*of.values()], 2)
        best = (min(of.values()), float(f"{np.exp(-b / a / 2):.2g}"), gate)
        found[model] = min(found.get(model, best), best)
    return found


def sizes_planned():
    """(model, budget, blocks): how many runs."""
    each = (p.config for p in planned("study_isoflop"))
    return Counter((c.model_name, c.budget, c.size) for c in each)


def experts_planned():
    """(experts, heads, top_k, norm): the budgets and seeds of its runs."""
    found = defaultdict(list)
    for p in planned("study_experts"):
        m = p.config.model
        key = (m.n_experts, m.n_heads, m.top_k, m.query_norm)
        found[key].append((p.config.budget, p.config.seed))
    return found


# compute multipliers


def slope(model, low, high):
    """Nats that a factor e of compute is worth."""
    return (mean(model, low) - mean(model, high)) / math.log(high / low)


def one_law(baseline, asymptote):
    """PEER's multiplier by one power law for both."""
    points = {m: (list(SEEDED), [mean(m, b) for b in SEEDED]) for m in (baseline, "peer")}
    fit = compute_multipliers(points, baseline, asymptote=asymptote, slopes="one")
    return fit.at_compute("peer", 1e13)


def rate_used(model):
    return column(one(model, 3e12), "rate")


def tuning(model, **gate):
    """Losses at 3e12 of the three rates."""
    found = one_loss("study/tuning", "rate", model=model, budget=3e12, **gate)
    assert len(found) == 3
    return [found[rate,] for rate in (4e-3, 8e-3, 1.6e-2)]


def at_share(model, share):
    """Loss at 3e13 and five blocks of seed 0 at this share of the tuned rate."""
    where = {"model": model, "budget": 3e13, "n_layers": 5, "seed": 0}
    found = [*find("study/tuning", **where), *find("study/isoflop", **where)]
    rates = {column(r, "rate") / rate_used(model): r.val_loss for r in found}
    (loss,) = (v for ratio, v in rates.items() if abs(ratio / share - 1) < 0.02)  # two digits
    return loss


def tuned(model):
    return at_share(model, 1)


def gain_of_half(model):
    return tuned(model) - at(model, 3e13)[0]


def lead_at_better():
    """PEER below `none` at 3e13, each at the better of two rates."""
    peer, none = (min(tuned(m), at(m, 3e13)[0]) for m in ("peer", "none"))
    return none - peer


def multipliers_at_better():
    """PEER's against `none` with that lead: at 3e13, and the mean of the budgets."""
    last = math.exp(lead_at_better() / slope("none", 1e13, 3e13))
    first = [found[0] for found in seeds.multipliers("peer", "none")[:2]]
    return last, math.exp(np.mean(np.log([*first, last])))


# noise


@cache
def settings_with_seeds():
    """(model, budget): the losses of each setting of the study that has several seeds."""
    found, cells = defaultdict(list), defaultdict(list)
    for r in distinct():
        parts = json.dumps([r.config[of] for of in ("ladder", "model", "optim")], sort_keys=True)
        found[r.model, r.budget, r.n_layers, r.n_params, parts].append(r.val_loss)
    for (model, budget, *_), own in found.items():
        if len(own) > 1:
            cells[model, budget].append(np.array(own))
    return cells


def noise_of_settings(*models):
    """Standard deviation and degrees of freedom of each budget, as text."""
    found = []
    for budget in SEEDED:
        own = [each for m in models for each in settings_with_seeds()[m, budget]]
        dof = sum(len(each) - 1 for each in own)
        squares = sum(each.var() * len(each) for each in own)
        found.append([math.sqrt(squares / dof), dof])
    return found


def variance_of_peer():
    """At 1e13, of four numbers of experts."""
    own = settings_with_seeds()["peer", 1e13]
    assert len(own) == 4
    return np.mean([each.var(ddof=1) for each in own])


def peer_with_its_noise(other):
    """PEER below another at 1e13."""
    pair = variance_of_peer() / 3, seeds.own[other] / 3
    return -welch(minus("peer", other, 1e13), *pair, dof=8, dof_of_other=6)


def variance(*models):
    return np.mean([seeds.own[m] for m in models])


def significant(pairs):
    """'`a` below `b`, `c`; `d` below `b`' of pairs."""
    below = {low: [m for m in MODELS if (low, m) in pairs] for low in reversed(MODELS)}
    named = {low: ", ".join(f"`{m}`" for m in more) for low, more in below.items() if more}
    return "; ".join(f"`{low}` below {more}" for low, more in named.items())


def dunnett(budget):
    """Pairs with dense; p is an integral by Monte Carlo, to some 1e-4."""
    others = [at(m, budget) for m in MODELS[1:]]
    generator = np.random.default_rng(0)
    p = stats.dunnett(*others, control=at("dense", budget), random_state=generator).pvalue
    assert min(abs(p - 0.05)) > 0.005
    return {(m, "dense") for m, value in zip(MODELS[1:], p, strict=True) if value < 0.05}


def below(model, other):
    """By pooled noise: at which budgets it is significantly lower; and lower at all."""
    found = [seeds.by_pooled(model, other, b) for b in SEEDED]
    return [d.value < 0 and d.p < 0.05 for d in found], [d.value < 0 for d in found]


# over sizes, other text


def over_sizes_by(rule, budget):
    """`moe_fine` minus dense. Four single runs and the mean of three: (4 + 1/3) / 25."""
    weight = (4 + 1 / 3) / 25
    value = seeds.over_sizes("moe_fine", "dense", budget).mean()
    if rule == "own":
        return welch(value, seeds.own["moe_fine"] * weight, seeds.own["dense"] * weight)
    return student(value, math.sqrt(2 * seeds.pooled(budget) * weight), 12)


def columns_where(holds):
    """In how many of the fifteen columns of size and budget. holds: of the losses by model."""
    cells = [(b, n) for b in SEEDED for n in seeds.sizes(b)]
    return sum(holds({m: mean(m, b, n) for m in MODELS}) for b, n in cells)


def on_domain(name):
    return Seeds(lambda r: r.evaluations[f"packages/{name}@max_tokens=131072"]["loss"])


FOREIGN_MEAN = Seeds(lambda r: np.mean([on_domain(name).score(r) for name in FOREIGN]))


@cache
def scored_on(domain):
    """The isoFLOP sweep with its loss on a foreign domain."""
    scored = f"packages/{domain}@max_tokens=131072.loss"
    return load_table(RESULTS / "isoflop", columns={"loss": scored})


def below_dense_on(domain, budget):
    """PEER below dense there, by the analysis."""
    found = compare_models(scored_on(domain), budget=budget).means
    return tuple(-next(m.difference for m in found if m.model == "peer"))


# seconds


@cache
def seconds():
    runs = load_table(RESULTS / "isoflop")
    runs = runs.assign(seconds=training_seconds(runs))
    runs = runs[runs["n_layers"] == runs["budget"].map(SEEDED)]
    return runs.groupby(["series", "budget"])["seconds"].mean().to_dict()


def at_equal_seconds(model, other):
    found = []
    for budget in SEEDED:
        longer = math.log(seconds()[model, budget] / seconds()[other, budget])
        d, worth = seeds.by_own(model, other, budget), slope(other, 3e12, 3e13) * longer
        found.append([each + worth for each in d])
    return found


# rates at the second budget, seed 0


@cache
def tried(model):
    found = one_loss("study/tuning", "rate", model=model, budget=1e13)
    return {rate: found[rate,] for (rate,) in sorted(found)}


def parabola(found):
    """Its lowest loss, of {rate: loss}."""
    a, b, c = np.polyfit(np.log(list(found)), list(found.values()), 2)
    return c - b**2 / (4 * a)


USED = {"dense": 1e-2, "peer": 1.1e-2}


def leads_at_rates():
    """PEER minus dense: at the rates used, the best tried, by parabolas, and with a fourth rate."""
    ways = (
        lambda m: at(m, 1e13)[0],
        lambda m: min(tried(m).values()),
        lambda m: parabola(tried(m)),
        lambda m: parabola(tried(m) | {USED[m]: at(m, 1e13)[0]}),
    )
    return [way("peer") - way("dense") for way in ways]
