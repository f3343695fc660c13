"""Numbers of the layers since 2024, of results/study/zoo, zoo_2 and the search of their rates."""

from functools import cache

import numpy as np
from omegaconf import OmegaConf
from scipy import stats

from tests.study.records import RESULTS, ROOT, by, find, holm

ZOO = (  # model and experts, in the order of the table
    ("engram", 131072), ("peer", 16384), ("memory_plus", 32400), ("stem", None),
    ("memory_plus", 16384), ("ultramem", 16384), ("pkm", 16384), ("omni", 16384),
    ("peer_narrow", 65536), ("moe_fine", 128), ("peer_narrow", 16384), ("sgatlin", 16384),
    ("dense", None), ("none", None),
)  # fmt: skip
LARGE = {("peer_narrow", 65536), ("memory_plus", 32400)}  # with PEER's parameters
CHANGED = {"omni", "ultramem", "stem", "engram"}  # since, to what their authors' code says
PEER = ("peer", 16384)
FIRST = RESULTS / "first.md"


@cache
def cells_of(sweep):
    """(model, n_experts): its records, by seed."""
    return by(f"study/{sweep}", "model", "n_experts")


@cache
def zoo_losses():
    return {cell: np.array([r.val_loss for r in own]) for cell, own in cells_of("zoo").items()}


def order_of_zoo():
    return sorted(zoo_losses(), key=lambda cell: zoo_losses()[cell].mean())


# what follows is of a function's losses by cell, each of as many seeds


def zoo_noise(of=zoo_losses):
    """A run's, pooled over all, and its degrees of freedom."""
    own = of().values()
    dof = sum(len(each) - 1 for each in own)
    return np.sqrt(sum(((each - each.mean()) ** 2).sum() for each in own) / dof), dof


def zoo_error(of=zoo_losses):
    """Of a difference of two means."""
    return zoo_noise(of)[0] * np.sqrt(2 / len(of()[PEER]))


def zoo_half(of=zoo_losses):
    """Half of the interval of a difference of two means."""
    return stats.t.ppf(0.975, zoo_noise(of)[1]) * zoo_error(of)


@cache
def zoo_p(of=zoo_losses):
    """Of each but PEER, by Holm's correction."""
    away = {c: abs(own.mean() - of()[PEER].mean()) for c, own in of().items() if c != PEER}
    return holm({c: 2 * stats.t.sf(d / zoo_error(of), zoo_noise(of)[1]) for c, d in away.items()})


@cache
def zoo_p_own(of=zoo_losses):
    """Same by each layer's own noise: Welch's test of two samples."""
    others = {c: own for c, own in of().items() if c != PEER}
    return holm(
        {c: stats.ttest_ind(own, of()[PEER], equal_var=False).pvalue for c, own in others.items()}
    )


def left_by_own():
    """Layers whose difference to PEER is significant by own noise, after Holm's correction."""
    return [cell for cell in ZOO if cell != PEER and zoo_p_own()[cell] < 0.05]


def from_peer(model, n_experts=None):
    """A mean loss minus PEER's."""
    cell = next(c for c in zoo_losses() if c[0] == model and n_experts in (None, c[1]))
    return zoo_losses()[cell].mean() - zoo_losses()[PEER].mean()


def zoo_rows():
    """Parameters, tokens, rate, mean loss; of others minus PEER's with its interval, and both p."""
    found = []
    for cell in ZOO:
        first, loss = cells_of("zoo")[cell][0], zoo_losses()[cell].mean()
        about = first.n_params, first.n_tokens / 1e6, first.lr, loss
        away = from_peer(*cell)
        ends = away - zoo_half(), away + zoo_half()
        found.append(
            [*about, *(() if cell == PEER else (away, *ends, zoo_p()[cell], zoo_p_own()[cell]))]
        )
    return found


def engram_on_domains():
    """Below PEER on each foreign domain."""
    peer, engram = (cells_of("zoo")[c] for c in (PEER, ("engram", 131072)))
    names = peer[0].evaluations
    means = [[np.mean([r.evaluations[n]["loss"] for r in own]) for n in names]
             for own in (peer, engram)]  # fmt: skip
    assert len(names) == 3
    return np.subtract(*means)


def third_above(*cell):
    first, second, third = sorted(zoo_losses()[cell])
    return third - (first + second) / 2


def second_row(model):
    """Of results/study/zoo_2: its losses, their mean, and that of the same seeds before."""
    own = find("study/zoo_2", model=model)
    before = {r.seed: r.val_loss for r in find("study/zoo", model=model)}
    losses = [r.val_loss for r in own]
    return [r.seed for r in own], losses, np.mean(losses), np.mean([before[r.seed] for r in own])


def largest_of_second():
    return max(abs(second_row(m)[2] - second_row(m)[3]) for m in CHANGED)


def best_trials():
    """(model, experts of those in LARGE): the rate of the lowest trial, of four of seed 0."""
    found = {}
    for cell, own in cells_of("zoo_rates").items():
        assert [r.status for r in own] == ["done"] * 4
        assert len({r.lr for r in own}) == 4
        assert {r.seed for r in own} == {0}
        found[cell] = min(own, key=lambda r: r.val_loss).lr
    return found


def zoo_seconds(model):
    """Of the document's table: they are of a benchmark, not of the records."""
    text = FIRST.read_text()
    table = text[text.index("| layer, 1e13 |") :]
    return int(table[table.index(f"| `{model}` | ") :].partition("\n")[0].split("|")[-2])


def rates_of_yaml():
    """(model, experts that are given): the rate of conf/experiment/zoo.yaml."""
    yaml = OmegaConf.load(ROOT / "conf" / "experiment" / "zoo.yaml")
    return {(g["model"], g.get("n_experts")): g["ladder.lr"] for g in yaml.hydra.sweeper.grids}


def away_from_peer():
    """Mean losses of all layers but `engram` minus PEER's, the lowest of a layer's two cells."""
    cells = [c for c in zoo_losses() if c not in (PEER, ("engram", 131072))]
    return {cell[0]: from_peer(*cell) for cell in sorted(cells, key=lambda c: -from_peer(*c))}
