"""Table of docs/isoflop.md: laws at ten and a hundred times the largest budget, of surfaces whose
best size is a power of compute and of others.

    python -m tests.analysis.isoflop.extrapolated 100

Tables are those of tests.analysis.isoflop.simulated.
"""

import sys
from collections.abc import Callable

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.isoflop.fit import fit_isoflop
from analysis.planning.size import plan
from tests.analysis.isoflop import truths
from tests.analysis.isoflop.simulated import FIRST, SD

SURFACES = {
    "Hoffmann": truths.hoffmann,
    "Kaplan": truths.kaplan,
    "broken in D": truths.broken,
    "repeated data": truths.repeated,
    "size and tokens interact": truths.interacting,
    "rates worse at large N": truths.badly_tuned,
    "twice as much worse": truths.worse_tuned,
    "N without embeddings": truths.non_embedding,
}
TIMES = (10, 100)


def coverage(law: Callable, n: int) -> pd.DataFrame:
    """A row a quantity and distance: coverage by the law alone and with drift, the share of tables
    that drift does not hold and that no warning but of the distance is about, and median widths in
    ln of the quantity.
    """
    table, found = truths.runs(law), []
    for seed in range(FIRST, FIRST + n):
        fit = fit_isoflop(truths.noisy(table, SD, seed), n_draws=400)
        laws = fit.law().laws
        for times in TIMES:
            budget = times * truths.BUDGETS[-1]
            best = truths.optimum(law, budget)
            planned = plan(budget, fit)
            warned = any(not text.startswith("extrapolated") for text in planned.warnings)
            truth = {"n_params": best, "loss": law(best, budget / 6 / best)}
            for name, value in truth.items():
                alone, drifts = laws[name].predict(budget).first, planned.values[name]
                held = [one.lower <= value <= one.upper for one in (alone, drifts)]
                widths = [np.log(one.upper / one.lower) for one in (alone, drifts)]
                found.append([f"{name} {times}x", *held, not (held[1] or warned), *widths])
    names = ["at", "alone", "drift", "silent", "width alone", "width"]
    groups = pd.DataFrame(found, columns=names).groupby("at", sort=False)
    means = groups[["alone", "drift", "silent"]].mean()
    return means.join(groups[["width alone", "width"]].median())


def main(n: int) -> None:
    parts = {name: coverage(law, n) for name, law in tqdm(SURFACES.items(), desc="surfaces")}
    print(pd.concat(parts).round(3).to_string())


if __name__ == "__main__":
    main(int(sys.argv[1]))
