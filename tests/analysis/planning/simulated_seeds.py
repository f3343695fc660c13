"""Table of docs/planning.md: coverage of intervals whose number of seeds was not fixed.

    python -m tests.analysis.planning.simulated_seeds 2000

Losses are normal. Each cell begins with three seeds, by which it is chosen how noise is pooled, and
stops at its half-width.
"""

import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.planning.half_widths import half_width, seeds_by_stein
from analysis.planning.pair_noise import Pool, pool_noise
from analysis.planning.pairs import Block

FIRST = 10_000  # seed; the method was found on others
PILOT = 3
MOST = 400  # seeds of a cell
ALIKE = (1.0,) * 6
UNLIKE = (0.5, 0.5, 1.0, 1.0, 1.5, 2.0)  # the baseline's first


class Way(NamedTuple):
    """sds: of runs, by model; target: the half-width in the noise of a run; pilot: None looks again
    at the noise of all seeds.
    """

    sds: tuple[float, ...]
    n_blocks: int
    target: float
    pilot: int | None
    pool: Pool | None


WAYS = {
    f"{n} and {name}, {how}": Way(sds, n_blocks, target, pilot, pool)
    for n, name, sds, n_blocks, pool in (
        ("one model", "one budget", ALIKE[:2], 1, "all"),
        ("five models", "three budgets", ALIKE, 3, None),
        ("five models of unlike noise", "three budgets", UNLIKE, 3, None),
    )
    for target in (1.2, 0.6)
    for pilot, how in ((None, f"{target}, all seeds"), (PILOT, f"{target}, pilot"))
}


class Stopped(NamedTuple):
    """held (cells,): whether the interval at the stop holds 0, the truth; seeds (cells,)."""

    held: np.ndarray
    seeds: np.ndarray


def stopped(way: Way, rng: np.random.Generator) -> Stopped:
    """One table, whose cells get seeds until their half-width is reached."""
    names = ["dense", *(f"m{k}" for k in range(1, len(way.sds)))]
    drawn = rng.standard_normal((way.n_blocks, len(names), MOST)) * np.array(way.sds)[:, None]
    n = {(name, i): PILOT for i in range(way.n_blocks) for name in names[1:]}
    pool = way.pool
    while True:
        blocks = []
        for i in range(way.n_blocks):
            most = max(n[name, i] for name in names[1:])
            losses = {
                name: dict(enumerate(drawn[i, k, : n.get((name, i), most)].tolist()))
                for k, name in enumerate(names)
            }
            blocks.append(Block(budget=float(i + 1), size="", losses=losses))
        pooled = pool_noise(blocks, "dense", pool, way.pilot)
        pool, noises = pooled.pool, pooled.noises
        open_ = {
            cell: noise
            for cell, noise in noises.items()
            if half_width(noise.sd, noise.dof, n[cell], 0.95) > way.target * (1 + 1e-9)
            and n[cell] < MOST
        }
        if not open_:
            break
        for cell, noise in open_.items():
            planned = seeds_by_stein(noise.sd, noise.dof, way.target, 0.95) or MOST
            n[cell] = n[cell] + 1 if way.pilot is None else min(planned, MOST)
    held = [
        abs(blocks[i].differences(name, "dense").mean())
        <= half_width(noise.sd, noise.dof, n[name, i], 0.95)
        for (name, i), noise in noises.items()
    ]
    return Stopped(np.array(held), np.array([n[cell] for cell in noises]))


def coverage(way: Way, draws: int, first: int = FIRST) -> dict[str, float]:
    """Share of intervals at the stop that hold the truth, by cell and of the worst model, and
    the mean number of seeds.
    """
    found = [stopped(way, np.random.default_rng(seed)) for seed in range(first, first + draws)]
    held, seeds = (np.array([getattr(one, name) for one in found]) for name in Stopped._fields)
    by_model = held.reshape(draws, way.n_blocks, -1).mean(axis=(0, 1))
    return {
        "coverage": float(held.mean()),
        "of the worst model": float(by_model.min()),
        "seeds": float(seeds.mean()),
    }


def main(draws: int) -> None:
    rows = {name: coverage(way, draws) for name, way in tqdm(WAYS.items(), desc="ways")}
    print(pd.DataFrame(rows).T.round(3).to_string())


if __name__ == "__main__":
    main(int(sys.argv[1]))
