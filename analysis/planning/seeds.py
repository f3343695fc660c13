"""Seeds that differences from a baseline need for a half-width."""

from collections.abc import Mapping, Sequence

import pandas as pd

from analysis.fitting.checks import check_level, positive
from analysis.fitting.intervals import Estimate
from analysis.fitting.status import FitError
from analysis.fitting.text import noise_cautions, pluralize
from analysis.planning.half_widths import half_width, seeds_by_stein
from analysis.planning.pair_noise import ALPHA, POOLS, ROUNDING, PairNoise, Pool, pool_noise
from analysis.planning.pairs import Block, find_blocks
from analysis.planning.seed_power import PairCell, SeedPower
from analysis.settings import setting
from analysis.table.warned import warned

LEAST = 2  # pairs that a cell needs


@warned()
def seed_power(
    table: pd.DataFrame,
    baseline: str = "dense",
    *,
    target: float,
    level: float = 0.95,
    pool: Pool | None = None,
    pilot: int | None = None,
) -> SeedPower:
    """Every model beside the baseline, wherever both have two seeds or more at equal FLOPs and
    size: the interval of the mean difference of pairs of one seed, and the seeds that a half-width
    of `target` nats needs.

    pool: over which cells the noise is pooled, one of POOLS; by default the first whose test of
    equal variances does not reject at 10 %. pilot: only the first so many seeds of each cell tell
    the noise. Then the rule is Stein's: look again after more seeds, stop at the half-width, and
    the interval holds the truth as often as it says. Without, the noise is of all seeds; the needed
    numbers are Stein's with these as the pilot.
    Raises ValueError for a bad argument, FitError if no cell has two pairs.
    """
    positive("target", target)
    check_level(level)
    if pool is not None and pool not in POOLS:
        raise ValueError(f"{setting('pool', pool)} is not one of {', '.join(POOLS)}")
    if pilot is not None and pilot < LEAST:
        raise ValueError(f"{setting('pilot', pilot)} must be 2 or more: one seed has no scatter")
    blocks = find_blocks(table, baseline)
    kept, left_out = _with_pairs(blocks, baseline)
    if not kept:
        raise FitError(
            f"no model has two seeds or more beside {baseline} at equal FLOPs and size: the noise "
            "of a difference is unknown; give some cells seeds"
        )
    most = max(len(b.seeds(m, baseline)) for b in kept for m in b.losses if m != baseline)
    if pilot is not None and pilot > most:
        raise ValueError(
            f"{setting('pilot', pilot)} is more than the {most} seeds that a cell has at most: "
            "give the number that the needed seeds were planned from, or none"
        )
    pooled = pool_noise(kept, baseline, pool, pilot)
    cells: list[PairCell] = []
    missing: dict[tuple[int, str], int] = {}  # of the baseline's, what the cell of most needs
    for (model, i), noise in pooled.noises.items():
        cell = _cell(kept[i], model, baseline, noise, target, level)
        cells.append(cell)
        for name, n in _missing(kept[i], (model, baseline), cell.needed).items():
            missing[i, name] = max(missing.get((i, name), 0), n)
    return SeedPower(
        baseline=baseline,
        level=level,
        target=float(target),
        pool=pooled.pool,
        chances=pooled.chances,
        pilot=pilot,
        cells=tuple(cells),
        left_out=left_out,
        n_runs=sum(missing.values()),
        flops=sum(n * kept[i].budget for (i, _), n in missing.items()),
        warnings=tuple(_warnings(cells, pooled.chances, pooled.pool, left_out)),
    )


def _with_pairs(blocks: Sequence[Block], baseline: str) -> tuple[list[Block], int]:
    """Blocks with the models that have pairs enough, and how many cells have one."""
    kept, left_out = [], 0
    for block in blocks:
        n = {m: len(block.seeds(m, baseline)) for m in block.losses if m != baseline}
        left_out += sum(0 < pairs < LEAST for pairs in n.values())
        losses = {
            model: own
            for model, own in block.losses.items()
            if model == baseline or n[model] >= LEAST
        }
        if len(losses) > 1:
            kept.append(Block(budget=block.budget, size=block.size, losses=losses))
    return kept, left_out


def _cell(
    block: Block, model: str, baseline: str, noise: PairNoise, target: float, level: float
) -> PairCell:
    differences = block.differences(model, baseline)
    n = len(differences)
    half = half_width(noise.sd, noise.dof, n, level)
    wanted = seeds_by_stein(noise.sd, noise.dof, target, level)
    needed = None if wanted is None else max(wanted, n)
    missing = sum(_missing(block, (model, baseline), needed).values())
    return PairCell(
        model=model,
        budget=block.budget,
        size=block.size,
        n_pairs=n,
        difference=Estimate.around(float(differences.mean()), half),
        noise=noise,
        needed=needed,
        runs=missing,
        flops=missing * block.budget,
    )


def _missing(block: Block, models: tuple[str, str], needed: int | None) -> dict[str, int]:
    """Model -> runs that are missing for so many pairs of the two; none where there are enough."""
    if needed is None or needed <= len(block.seeds(*models)):
        return {}
    return {model: max(needed - len(block.losses[model]), 0) for model in models}


def _warnings(
    cells: Sequence[PairCell], chances: Mapping[Pool, float], pool: Pool, left_out: int
) -> list[str]:
    found = [*noise_cautions(min(cell.noise.dof for cell in cells))]
    if any(cell.noise.sd < ROUNDING for cell in cells):
        found.append("pairs of all seeds differ alike, to a rounding: are they copies of one run?")
    if chances and pool != POOLS[0]:
        found.append(
            f"the noise is not pooled over all cells: their variances differ (p below {ALPHA:g})"
        )
    if left_out:
        found.append(f"{pluralize(left_out, 'cell')} with one pair left out")
    unknown = [cell for cell in cells if cell.needed is None]
    if unknown:
        found.append(
            f"{pluralize(len(unknown), 'cell')} would need more than 100,000 seeds: take a wider "
            "half-width"
        )
    return found
