"""The table of docs/analysis.md: what the chosen runs give, beside the whole grid once more.

    python -m tests.analysis.design.simulated 40

Three budgets of five sizes from a quarter to four times the best, on Hoffmann's surface, with noise
of 0.005 nats. The grid is the same cells with another seed; the chosen runs have as many FLOPs, or
half of them.
"""

import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.design.choose import next_runs
from analysis.fitting.power_law import PowerLaw
from analysis.isoflop.fit import fit_isoflop
from analysis.table.load import check_table
from tests.analysis.isoflop.truths import hoffmann, noisy, runs

SD = 0.005
FIRST = 10_000  # seed; the method was found on others
BUDGETS = (1e18, 1e19, 1e20)
TARGETS = ("N*@1e20", "N*@1e21", "a")
SHARES = (0.5, 1.0)


class Draw(NamedTuple):
    """Half-widths: of the table, of the whole grid once more, and for each share of its FLOPs those
    expected and realised; spent: the FLOPs, in the grid's.
    """

    before: float
    grid: float
    expected: np.ndarray
    realised: np.ndarray
    spent: np.ndarray


def realised(table: pd.DataFrame, target: str, seed: int) -> float:
    """The half-width that isoflop gives, of the logarithm but for the exponent."""
    fit = fit_isoflop(table, n_draws=200, seed=seed)
    law = fit.law("m").laws["n_params"]
    assert isinstance(law, PowerLaw)
    if target == "a":
        low, high = law.bounds("exponent")
        return (high - low) / 2
    at = float(target.partition("@")[2])
    own = [c for c in fit.curves if abs(np.log(c.budget / at)) < 1e-6]
    low, high = own[0].x_interval if own else law.predict(at).first[1:]
    return float(np.log(high / low) / 2) if low > 0 else float("inf")


def with_runs(table: pd.DataFrame, chosen: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The table with more runs, of columns n_params, budget and seed."""
    D = chosen["budget"] / 6 / chosen["n_params"]
    noise = np.random.default_rng(seed + 1_000_000).normal(0, SD, len(chosen))
    rows = {"loss": hoffmann(chosen["n_params"], D) + noise, "n_tokens": D, "model": "m"}
    known = chosen[["n_params", "budget", "seed"]].assign(**rows, status="done", lr=1e-3)
    columns = [name for name in known if name in table]
    return check_table(pd.concat([table[columns], known[columns]], ignore_index=True))


def draw(target: str, seed: int, shares=SHARES) -> Draw:
    table = noisy(runs(hoffmann, BUDGETS, 5, 4.0), SD, seed)
    cost = float(table["budget"].sum())
    again = table[["n_params", "budget"]].assign(seed=1)
    found = [next_runs(table, target, share * cost) for share in shares]
    return Draw(
        before=realised(table, target, seed),
        grid=realised(with_runs(table, again, seed), target, seed),
        expected=np.array([one.half[-1] for one in found]),
        realised=np.array(
            [realised(with_runs(table, one.to_frame(), seed), target, seed) for one in found]
        ),
        spent=np.array([one.flops / cost for one in found]),
    )


def measure(target: str, draws: int, first: int = FIRST, shares=SHARES) -> pd.DataFrame:
    """A row a share: medians over draws, the half-widths in that of the grid once more."""
    every = [draw(target, seed, shares) for seed in tqdm(range(first, first + draws), desc=target)]
    rows = []
    for k, share in enumerate(shares):
        ratio = np.array([one.realised[k] / one.expected[k] for one in every])
        rows.append(
            {
                "target": target,
                "of the grid's FLOPs": share,
                "spent": np.median([one.spent[k] for one in every]),
                "before": np.median([one.before / one.grid for one in every]),
                "width": np.median([one.realised[k] for one in every])
                / np.median([one.grid for one in every]),
                "realised / expected": np.median(ratio),
                "error of its logarithm": _error_of_median(np.log(ratio)),
                "of quartiles": "{:.2f} to {:.2f}".format(*np.quantile(ratio, [0.25, 0.75])),
            }
        )
    return pd.DataFrame(rows)


def _error_of_median(values: np.ndarray) -> float:
    """The standard error of a median of normal values, whose spread is by quartiles."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(np.sqrt(np.pi / 2) * (high - low) / 1.349 / np.sqrt(len(values)))


def main(draws: int) -> None:
    found = pd.concat([measure(target, draws) for target in TARGETS], ignore_index=True)
    print(found.round(3).to_string(index=False))


if __name__ == "__main__":
    main(int(sys.argv[1]))
