"""Four readings of one search of rates: `python -m tests.study.rate_readings`.

All are of the trials in results/study/rates (seed 0) and of the means of the isoFLOP sweep at the
rates used. A reading says what each layer gains at its best rate; a difference of two layers moves
by the difference of their gains. In nats/token:

- parabolas: one in ln(rate) through all trials of a cell (`analysis rates --method parabola`);
- skewed curves: `analysis rates` by default;
- lowest trials: the run at the rate used minus the lowest run of the cell;
- one curvature: parabolas with one curvature for all cells, through the trials within a factor of
  2.3 of the lowest.
"""

import math
from itertools import combinations

import numpy as np

from analysis.rates.fit import fit_rates
from analysis.rates.moves import compare_rates
from analysis.table.load import load_table
from experiments.records.files import find_records, read_record
from tests.study.committed import MODELS, RESULTS, SEEDED, isoflop

NOISE = 0.021  # nats/token of one run: tests/study/test_study_rates.py
NEAR = 2.3
BUDGETS = (1e13, 3e13)
CELLS = [(m, b) for b in BUDGETS for m in MODELS]
SHOWN = (("dense", 1e13), ("none", 1e13), ("dense", 3e13), ("none", 3e13))


def trials():
    """(model, budget): {ladder.lr: loss}."""
    found = {cell: {} for cell in CELLS}
    for path in find_records(RESULTS / "rates"):
        record = read_record(path)
        found[record.model, record.budget][record.config["ladder"]["lr"]] = record.val_loss
    return found


def by_fit(method):
    fit = fit_rates(load_table(RESULTS / "rates"), method=method, noise=NOISE)
    gains = compare_rates(fit, load_table(RESULTS / "isoflop")).gains
    return {(gain.cell.model, gain.cell.budget): gain.gain for gain in gains}


def by_lowest(tried, used):
    return {cell: runs[used[cell]] - min(runs.values()) for cell, runs in tried.items()}


def by_one_curvature(tried, used):
    """Least squares of a level and a slope for each cell, and a curvature for all."""
    rows, losses = [], []
    for i, cell in enumerate(CELLS):
        best = min(tried[cell], key=tried[cell].get)
        for lr, loss in tried[cell].items():
            if 1 / NEAR <= lr / best <= NEAR:
                row = np.zeros(2 * len(CELLS) + 1)
                row[[i, len(CELLS) + i, -1]] = 1, math.log(lr), math.log(lr) ** 2
                rows.append(row)
                losses.append(loss)
    p, *_ = np.linalg.lstsq(np.array(rows), np.array(losses), rcond=None)
    slopes, curvature = p[len(CELLS) : -1], p[-1]
    best = dict(zip(CELLS, -slopes / (2 * curvature), strict=True))
    return {cell: curvature * (math.log(used[cell]) - best[cell]) ** 2 for cell in CELLS}


def readings(seeds):
    """Name of a reading: the gain of each cell."""
    tried = trials()
    used = {
        (r.model, r.budget): r.config["ladder"]["lr"]
        for r in seeds.records
        if r.n_layers == SEEDED[r.budget]
    }
    return {
        "parabolas": by_fit("parabola"),
        "skewed curves": by_fit("slice"),
        "lowest trials": by_lowest(tried, used),
        "one curvature": by_one_curvature(tried, used),
    }


def rows(seeds):
    """Document's: the reading, how many differences move, and PEER's at the best rates."""
    found = []
    for name, gains in readings(seeds).items():
        moves = [gains[m, b] - gains[o, b] for b in BUDGETS for m, o in combinations(MODELS, 2)]
        at_best = [
            seeds.mean("peer", b) - seeds.mean(o, b) - gains["peer", b] + gains[o, b]
            for o, b in SHOWN
        ]
        n_moved = sum(abs(move) > 0.01 for move in moves)
        found.append([name, f"{n_moved} of {len(moves)}", *(f"{d:.3f}" for d in at_best)])
    return found


if __name__ == "__main__":
    for cells in rows(isoflop()):
        print("| " + " | ".join(cells) + " |")
