"""Numbers of results/study/first.md: experts, heads, causes, and what layers cost."""

import math

import numpy as np
from scipy import stats

from tests.study.first import USUAL, at, mean, one, variance
from tests.study.records import (
    SEEDED,
    by,
    column,
    find,
    losses,
    seeds,
    student,
    welch,
)

NUMBERS = (4096, 16384, 65536, 262144)  # of experts


def experts(n_experts, budget, **more):
    """Losses of the usual PEER with so many experts."""
    found = losses("study/experts", n_experts=n_experts, budget=budget, **USUAL | more)
    assert len(found) == 3
    return found


def experts_apart(n_experts, budget):
    """From 4,096, below it: the interval is by the noise of the four numbers."""
    own = {n: experts(n, budget) for n in NUMBERS}
    half = math.sqrt(np.mean([each.var(ddof=1) for each in own.values()]) * 2 / 3)
    return student(own[4096].mean() - own[n_experts].mean(), half, 8)


def p_of_experts():
    """Of the closest number to the fewest by Dunnett's test, and of all four by an F test."""
    few, *more = (experts(n, 1e13) for n in NUMBERS)
    p = stats.dunnett(*more, control=few, random_state=np.random.default_rng(0)).pvalue
    return p.min(), stats.f_oneway(few, *more).pvalue


def gain_of_tokens():
    """262,144 experts with the tokens of 4,096, below these at 3e12."""
    few, *ends = experts_apart(262144, 3e12)
    more = experts(262144, 3e12).mean() - with_tokens()
    return [few + more, *(end + more for end in ends)]


def with_tokens():
    found = losses("study/causes", model="peer", n_experts=262144, budget=3.78e12)
    assert len(found) == 3
    return found.mean()


def at_table_lr(rate):
    where = {"model": "peer", "n_experts": 262144, "budget": 3e12}
    own = by("study/causes", "table_lr", **where)
    assert {key: len(found) for key, found in own.items()} == {(1,): 3, (4,): 3}
    return np.mean([r.val_loss for r in own[rate,]])


def at_parameters(model, budget):
    """Parameters, FLOPs a token and mean loss; of PEER with 4,096 experts."""
    if model == "peer":
        found = find("study/experts", budget=budget, n_experts=4096, **USUAL)
    else:
        found = find("study/isoflop", model=model, budget=budget, n_layers=SEEDED[budget])
    assert len(found) == 3
    return found[0].n_params, found[0].flops_per_token, np.mean([r.val_loss for r in found])


def peer_minus_fine(budget):
    few, fine = experts(4096, budget), at("moe_fine", budget)
    return welch(few.mean() - fine.mean(), few.var(ddof=1) / 3, fine.var(ddof=1) / 3, dof=2)


def suspect(**where):
    """Losses of PEER with 16,384 experts and a change that may be why eight heads are worse."""
    found = losses("study/causes", model="peer", n_experts=16384, **where)
    assert len(found) == 3
    return found


def usage(budget, norm, name):
    """Of the four numbers of experts, means of three seeds; usage in per cent."""
    where = {"heads": 4, "top_k": 16, "query_norm": norm, "budget": budget}
    found = [find("study/experts", n_experts=n, **where) for n in NUMBERS]
    return [np.mean([column(r, name) for r in own]) * (100 if name == "usage" else 1)
            for own in found]  # fmt: skip


def by_token():
    """One run at L = 2 with token choice and a balance loss: how far expert choice is above it."""
    (loss,) = losses("study/causes", n_layers=2, routing="token_choice")
    return mean("moe", 3e12, 2) - loss


def causes_rows():
    """Losses at L = 2 and 3: of four layers, then of each suspect of `moe`, where there is one."""
    means = [[mean(m, 3e12, n) for n in (2, 3)] for m in ("dense", "none", "moe_fine", "moe")]
    one_of = {"routing": "expert_choice", "capacity": 1, "n_experts": 32}
    suspects = [{"n_experts": n} for n in (4, 8, 128)] + [{"capacity": c} for c in (2, 4)]
    suspects += [{"routing": "token_choice"}, {"n_experts": 128, "capacity": 7}]
    found = [[losses("study/causes", model="moe", n_layers=n, **one_of | each) for n in (2, 3)]
             for each in suspects]  # fmt: skip
    assert sum(len(own) for both in found for own in both) == 10
    return means, found


def noise_of_pairs():
    """Of a difference of two runs at 3e12: pooled, and of sparse layers."""
    sparse = variance("moe", "moe_fine", "pkm", "peer")
    return [math.sqrt(2 * v) for v in (seeds.pooled(3e12), sparse)]


# costs


def share_of_layer(model, budget, n_layers=None):
    """Of the compute, in per cent."""
    layer, none = (one(m, budget, n_layers=n_layers).flops_per_token for m in (model, "none"))
    return 100 * (1 - none / layer)


def text_of(budget):
    """PEER's tokens, dense's = 100."""
    return 100 * one("peer", budget).n_tokens / one("dense", budget).n_tokens


def adam(record):
    """What a step of Adam adds to the counted compute, in per cent."""
    return 100 * 12 * record.n_params / (record.batch_tokens * record.flops_per_token)


def overcharge(record):
    """Per cent of the counted compute that is a backward pass of scores that did not win."""
    winners = record.config["model"]["top_k"] / math.sqrt(record.n_experts)
    return 100 * 2 / 3 * (1 - winners) * record.flops_shares["ffn.keys"]


def elementwise(n_layers):
    """What is not counted of dense's forward pass, in per cent."""
    r = one("dense", 3e13 if n_layers == 7 else 3e12, n_layers=n_layers)
    d, vocab = r.d_model, r.config["ladder"]["vocab_size"]
    softmax = 5 * (n_layers * (d // 16) * (256 + 1) / 2 + vocab)
    norms, gelu = 5 * (2 * n_layers + 1) * d, 8 * n_layers * 4 * d
    rotary, residual = 3 * n_layers * 2 * d, n_layers * 2 * d
    return 100 * (softmax + norms + gelu + rotary + residual) / (r.flops_per_token / 3)


def finding(budget):
    """What finding experts costs, their own FLOPs = 1."""
    s = one("peer", budget).flops_shares
    return (s["ffn.query"] + s["ffn.keys"] + s["ffn.pairs"]) / s["ffn.experts"]


def dirty(sweep, **where):
    return sum(bool(r.environment["git_dirty"]) for r in find(sweep, **where))


def cost(found):
    """FLOPs and core hours."""
    hours = sum(r.wall_seconds for r in found) / 3600
    return sum(r.achieved_flops for r in found), hours
