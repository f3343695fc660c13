"""Layers since 2024 by four seeds, and their rates by two. Of results/study/zoo_rates_2 is seed 4
of each layer's three rates, and of the one that experiment=zoo used where it is a fourth. The four
layers that were changed are as they are now: seeds 1 to 3 of zoo_2, and both of the rates' seeds.
"""

from functools import cache

import numpy as np
from scipy import stats

from tests.study.zoo import CHANGED, PEER, ZOO, cells_of, zoo_half, zoo_noise, zoo_p, zoo_p_own

SEEDS = (0, 4)


@cache
def losses_by_rate(cell):
    """Losses of both seeds, (2,), at each rate that both have, in the order of rates."""
    own = cells_of("zoo_rates_2")[cell]
    if cell[0] not in CHANGED:
        own = [*cells_of("zoo_rates")[cell], *own]
    assert all(r.status == "done" for r in own)
    of = {(r.lr, r.seed): r.val_loss for r in own}
    rates = sorted(lr for lr, seed in of if seed == SEEDS[1])
    return {lr: np.array([of[lr, seed] for seed in SEEDS]) for lr in rates}


def used(cell):
    """The rate of experiment=zoo."""
    return cells_of("zoo")[cell][0].lr


def best(cell):
    """Rate of the lowest mean of both seeds."""
    means = {lr: each.mean() for lr, each in losses_by_rate(cell).items()}
    return min(means, key=means.get)


def cost(cell):
    """Mean loss at the rate used above that at the best one."""
    of = losses_by_rate(cell)
    return of[used(cell)].mean() - of[best(cell)].mean()


def kept():
    """Layers whose rate is the best by both seeds together."""
    return [cell for cell in ZOO if best(cell) == used(cell)]


@cache
def four():
    """Losses at the rate used of seeds 1 to 4, none of which chose it: (4,), by cell."""
    found = {}
    for cell in ZOO:
        own = cells_of("zoo_2" if cell[0] in CHANGED else "zoo")[cell]
        assert [(r.seed, r.lr) for r in own] == [(seed, used(cell)) for seed in (1, 2, 3)]
        last = losses_by_rate(cell)[used(cell)][SEEDS.index(4)]
        found[cell] = np.array([*(r.val_loss for r in own), last])
    return found


def away(cell):
    """Mean of the four minus PEER's."""
    return four()[cell].mean() - four()[PEER].mean()


def interval(cell):
    """A layer's mean minus PEER's, and its ends."""
    return away(cell), away(cell) - zoo_half(four), away(cell) + zoo_half(four)


def rows():
    """Rate, mean of four; of others minus PEER's with its interval, and both p; best rate by two
    seeds, and cost.
    """
    found = []
    for cell in sorted(ZOO, key=away):
        own = [used(cell), four()[cell].mean()]
        if cell != PEER:
            own += [*interval(cell), zoo_p(four)[cell], zoo_p_own(four)[cell]]
        found.append([*own, best(cell), cost(cell)])
    return found


def costs():
    """Lowest and highest where two seeds choose another rate."""
    found = [cost(cell) for cell in ZOO if cell not in kept()]
    return min(found), max(found)


def two_half():
    """Half of the interval of a difference of two means of two."""
    return stats.t.ppf(0.975, zoo_noise(four)[1]) * zoo_noise(four)[0]


def noises():
    return {cell: own.std(ddof=1) for cell, own in four().items()}


def equal_noise():
    """Bartlett's p."""
    return stats.bartlett(*four().values()).pvalue


def repeats():
    """The record of PEER's seed 0, and the one of today's code."""
    return [
        next(r for r in cells_of(sweep)[PEER] if (r.seed, r.lr) == (0, used(PEER)))
        for sweep in ("zoo_rates", "zoo_rates_2")
    ]


def repeated():
    """What their losses differ by."""
    first, again = repeats()
    assert first.run_id == again.run_id
    return abs(first.val_loss - again.val_loss)


def significant(p):
    return [cell for cell in ZOO if cell != PEER and p(four)[cell] < 0.05]


if __name__ == "__main__":
    for cell, row in zip(sorted(ZOO, key=away), rows(), strict=True):
        of = {f"{lr:.4g}": each.round(4).tolist() for lr, each in losses_by_rate(cell).items()}
        print(*cell, [f"{v:.4g}" for v in row], four()[cell].round(4), of)
