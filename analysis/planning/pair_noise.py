"""Noise of a pair's difference: pooled over cells as far as their variances are alike.

A cell is a model at a budget and size; its pairs are its runs beside the baseline's of one seed.
All cells of a budget and size share the baseline's runs, so their differences are not independent.
So noise that is pooled over models is that of a two-way layout: what is left of a loss after its
model's mean and its seed's. A seed's own effect is in no difference, and each degree of freedom
counts once.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import stats

from analysis.fitting.intervals import Array
from analysis.planning.pairs import Block

Cell = tuple[str, int]  # a model, and the position of its block
Pool = Literal["all", "model", "budget", "cell"]
POOLS: tuple[Pool, ...] = ("all", "model", "budget", "cell")  # in the order they are tried
ALPHA = 0.1  # of the test of equal variances: high, for the cells have few seeds to show it with
_DRAWS = 10_000
ROUNDING = 1e-9  # nats: a smaller standard deviation is no noise


@dataclass(frozen=True, kw_only=True)
class PairNoise:
    """Standard deviation of the difference of a pair in nats/token, with its degrees of freedom.

    of: the cells that it is of, in words; n_free: the degrees of freedom that one more seed in each
    of these cells adds.
    """

    of: str
    sd: float
    dof: int
    n_cells: int
    n_free: int

    def interval(self, level: float) -> tuple[float, float]:
        """Interval of the standard deviation, by chi-squared."""
        if self.dof < 1:
            return float("nan"), float("nan")
        ends = stats.chi2.ppf([(1 + level) / 2, (1 - level) / 2], self.dof)
        low, high = self.sd * np.sqrt(self.dof / ends)
        return float(low), float(high)


@dataclass(frozen=True, kw_only=True)
class Pooled:
    """pool: over which cells; chances: of variances so unequal by noise alone, of each pooling that
    was tested; noises: (model, position of the block) -> noise.
    """

    pool: Pool
    chances: dict[Pool, float]
    noises: dict[Cell, PairNoise]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Layout:
    """Pairs that tell the noise: of each cell the `first` seeds, or all where it is None.

    A cell is a model and the position of its block.
    """

    blocks: Sequence[Block]
    baseline: str
    first: int | None

    @cached_property
    def cells(self) -> list[Cell]:
        return [
            (name, i)
            for i, block in enumerate(self.blocks)
            for name in block.losses
            if name != self.baseline and self.seeds((name, i))
        ]

    def seeds(self, cell: Cell) -> list[int]:
        return self.blocks[cell[1]].seeds(cell[0], self.baseline)[: self.first]

    def differences(self, cell: Cell) -> Array:
        return self.blocks[cell[1]].differences(cell[0], self.baseline, self.first)

    def groups(self, pool: Pool) -> dict[str, list[Cell]]:
        """Name -> the cells that share a noise."""
        found: dict[str, list[Cell]] = {}
        for name, i in self.cells:
            at = f"{self.blocks[i].budget:.3g}"
            group = {
                "all": "all cells",
                "model": name,
                "budget": f"C={at}",
                "cell": f"{name} C={at} {self.blocks[i].size}",
            }[pool]
            found.setdefault(group, []).append((name, i))
        return found


def pool_noise(
    blocks: Sequence[Block], baseline: str, pool: Pool | None = None, first: int | None = None
) -> Pooled:
    """Noise of every cell. pool: how; by default the first of POOLS whose test of equal
    variances does not reject at ALPHA. first: only so many seeds of each cell, the lowest ones.
    """
    layout = _Layout(blocks=blocks, baseline=baseline, first=first)
    chances: dict[Pool, float] = {}
    for tried in POOLS[:-1] if pool is None else ():
        chances[tried] = _chance(layout, tried)
        if not chances[tried] < ALPHA:
            pool = tried
            break
    pool = pool or "cell"
    noises: dict[Cell, PairNoise] = {}
    for name, members in layout.groups(pool).items():
        noises |= dict.fromkeys(members, _noise(layout, members, name))
    return Pooled(pool=pool, chances=chances, noises={cell: noises[cell] for cell in layout.cells})


def _noise(layout: _Layout, members: Sequence[Cell], name: str) -> PairNoise:
    squares, dof, n_free = 0.0, 0, 0
    for i in dict.fromkeys(i for _, i in members):
        own, free = _squares(layout, [cell for cell in members if cell[1] == i])
        squares, dof = squares + own, dof + free
        n_free += sum(at == i for _, at in members)
    sd = float(np.sqrt(squares / dof)) if dof else float("nan")
    return PairNoise(of=name, sd=sd, dof=dof, n_cells=len(members), n_free=n_free)


def _squares(layout: _Layout, cells: Sequence[Cell]) -> tuple[float, int]:
    """Sum of squares whose mean is the variance of a difference, and its degrees of freedom:
    twice the residuals' of the two-way layout of the models of a block's cells and the baseline.
    Of one model it is that of the differences about their mean.
    """
    block = layout.blocks[cells[0][1]]
    seeds = {cell[0]: layout.seeds(cell) for cell in cells}
    every = sorted({seed for own in seeds.values() for seed in own})
    seeds[layout.baseline] = every
    rows = [(model, seed) for model, own in seeds.items() for seed in own]
    losses = np.array([block.losses[model][seed] for model, seed in rows])
    names = list(seeds)
    design = np.zeros((len(rows), len(names) + len(every)))
    for k, (model, seed) in enumerate(rows):
        design[k, names.index(model)] = 1
        design[k, len(names) + every.index(seed)] = 1
    about = losses - losses.mean()
    found, _, rank, _ = np.linalg.lstsq(design, about)
    off = about - design @ found
    return 2 * float(off @ off), len(rows) - int(rank)


def _chance(layout: _Layout, pool: Pool) -> float:
    """Chance, under equal noise of all runs, of cells' variances within a group that are as
    unequal by Bartlett's statistic; 1 where no group has two cells with variances.

    By draws of the same layout: the chi-squared distribution is far off at three seeds, and cells
    share the baseline's runs. An effect that the runs of a seed share is in no difference.
    """
    groups = [
        [cell for cell in members if len(layout.seeds(cell)) > 1]
        for members in layout.groups(pool).values()
    ]
    groups = [members for members in groups if len(members) > 1]
    if not groups:
        return 1.0
    tested = [cell for members in groups for cell in members]
    dof = np.array([len(layout.seeds(cell)) - 1.0 for cell in tested])
    seen = np.array([float(np.var(layout.differences(cell), ddof=1)) for cell in tested])
    if float(seen.max()) < ROUNDING**2:
        return 1.0
    drawn = _drawn(layout, tested)
    ends = np.cumsum([0, *(len(members) for members in groups)])

    def total(variances: Array) -> Array:
        parts = [_bartlett(variances[..., a:b], dof[a:b]) for a, b in pairwise(ends)]
        return np.sum(parts, axis=0)

    # the table itself is a draw too, so that no chance is 0
    beyond = int((total(drawn) >= total(seen[None])[0]).sum())
    return (beyond + 1) / (len(drawn) + 1)


def _drawn(layout: _Layout, cells: Sequence[Cell]) -> Array:
    """Variances (draws, cells) of differences of runs with unit noise."""
    rng = np.random.default_rng(0)
    found = []
    shared: dict[int, dict[int, Array]] = {}
    for cell in cells:
        seeds = layout.seeds(cell)
        own = rng.standard_normal((_DRAWS, len(seeds)))
        of_block = shared.setdefault(cell[1], {})
        for seed in seeds:
            if seed not in of_block:
                of_block[seed] = rng.standard_normal(_DRAWS)
        other = np.stack([of_block[seed] for seed in seeds], axis=1)
        found.append((own - other).var(axis=1, ddof=1))
    return np.stack(found, axis=1)


def _bartlett(variances: Array, dof: Array) -> Array:
    """N ln(pooled variance) - sum of n_i ln(variance_i), over the last axis; no further factor is
    needed beside draws.
    """
    tiny = np.finfo(np.float64).tiny
    pooled = (variances * dof).sum(axis=-1) / dof.sum()
    logs = (dof * np.log(np.maximum(variances, tiny))).sum(axis=-1)
    return np.asarray(dof.sum() * np.log(np.maximum(pooled, tiny)) - logs)
