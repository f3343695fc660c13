"""Table of docs/planning.md: what the chosen runs give, beside the whole grid once more.

    python -m tests.analysis.planning.simulated_runs 14 60000 multiplier@1e20 p-m@1e20

Draws, the first one's seed, and targets (all).

Budgets of five sizes from a quarter to four times the best, on Hoffmann's surface, with noise of
0.005 nats; targets of two models have a second one that needs a third less compute for each loss.
The grid is the same cells with another seed; the chosen runs have as many FLOPs, or less.
"""

import sys
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.contrast.compute import compute_contrasts
from analysis.fits import find_multipliers
from analysis.fitting.power_law import FrontierFit, PowerLaw
from analysis.isoflop.fit import fit_isoflop
from analysis.planning.runs import next_runs
from analysis.table.load import check_table
from tests.analysis.isoflop.truths import hoffmann, noisy, optimum, runs
from tests.analysis.tables import HOFFMANN

SD = 0.005
FIRST = 10_000  # seed; the method was found on others
BUDGETS = (1e18, 1e19, 1e20)
TARGETS = ("N*@1e20", "N*@1e21", "a", "alpha", "multiplier@1e20", "p-m@1e20")
SHARES = (0.25, 0.5, 1.0)
MORE = 1.5  # times as much compute do models m need for the losses of p


def better(N, D):
    return hoffmann(N * MORE**0.5, D * MORE**0.5)


LAWS = {"m": hoffmann, "p": better}


class Draw(NamedTuple):
    """Half-widths: of the table, of the whole grid once more, and for each share of its FLOPs those
    expected and realised; spent: the FLOPs, in the grid's. held: whether the interval holds the
    truth: of the table, of the grid once more, and for each share.
    """

    before: float
    grid: float
    expected: np.ndarray
    realised: np.ndarray
    spent: np.ndarray
    held: np.ndarray


class Interval(NamedTuple):
    """An interval of the target, or of its logarithm where `next` targets that."""

    low: float
    high: float

    @property
    def half(self) -> float:
        half = (self.high - self.low) / 2
        return half if np.isfinite(half) else float("inf")


def truth_of(target: str) -> float:
    """On the scale of the interval."""
    a, b = HOFFMANN["alpha"], HOFFMANN["beta"]
    exponents = {"a": b / (a + b), "alpha": a * b / (a + b)}
    if target in exponents:
        return exponents[target]
    name, _, at = target.partition("@")
    C = float(at)
    if name == "N*":
        return float(np.log(optimum(hoffmann, C)))
    if name == "multiplier":
        return float(np.log(MORE))
    lowest = {model: law(N, C / 6 / N) for model, law in LAWS.items() for N in [optimum(law, C)]}
    return float(lowest["p"] - lowest["m"])


def realised(table: pd.DataFrame, target: str, seed: int) -> Interval:
    """Interval that isoflop gives, or multiplier, or contrast."""
    name, _, at = target.partition("@")
    if name == "p-m":
        found = compute_contrasts(table, "n_params", layers=["p"], baselines=["m"])
        (one,) = (d for d in found.differences if d.budgets == (float(at),))
        return Interval(one.value.lower, one.value.upper)
    fit = fit_isoflop(table, n_draws=200, seed=seed)
    if name == "multiplier":
        several = find_multipliers(fit, "m").at_compute("p", float(at))
        with np.errstate(divide="ignore"):
            return Interval(*np.log([several.lower, several.upper]))
    law = fit.law("m").laws["n_params"]
    if name == "alpha":
        of_loss = fit.law("m").loss
        assert isinstance(of_loss, FrontierFit)
        return Interval(*of_loss.bounds("alpha"))
    assert isinstance(law, PowerLaw)
    if name == "a":
        return Interval(*law.bounds("exponent"))
    own = [c for c in fit.curves if abs(np.log(c.budget / float(at))) < 1e-6]
    ends = own[0].x_interval if own else law.predict(float(at)).first[1:]
    with np.errstate(divide="ignore"):
        return Interval(*np.log(ends))


def start(target: str, seed: int) -> pd.DataFrame:
    """Grid of the models that a target is of."""
    budgets = (*BUDGETS, 1e21) if target == "alpha" else BUDGETS
    models = LAWS if target.startswith(("multiplier", "p-m")) else {"m": hoffmann}
    parts = [
        noisy(runs(law, budgets, 5, 4.0), SD, seed + 500_000 * i).assign(model=name, series=name)
        for i, (name, law) in enumerate(models.items())
    ]
    return pd.concat(parts, ignore_index=True)


def with_runs(table: pd.DataFrame, chosen: pd.DataFrame, seed: int) -> pd.DataFrame:
    """Table with more runs, of columns model, n_params, budget and seed."""
    D = chosen["budget"] / 6 / chosen["n_params"]
    noise = np.random.default_rng(seed + 1_000_000).normal(0, SD, len(chosen))
    exact = [LAWS[m](N, d) for m, N, d in zip(chosen["model"], chosen["n_params"], D, strict=True)]
    rows = {"loss": np.array(exact) + noise, "n_tokens": D, "series": chosen["model"]}
    known = chosen[["model", "n_params", "budget", "seed"]]
    known = known.assign(**rows, status="done", lr=1e-3)
    columns = [name for name in known if name in table]
    return check_table(pd.concat([table[columns], known[columns]], ignore_index=True))


def draw(target: str, seed: int, shares: Sequence[float] = SHARES) -> Draw:
    table, truth = start(target, seed), truth_of(target)
    cost = float(table["budget"].sum())
    again = table[["model", "n_params", "budget"]].assign(seed=1)
    which = {"model": "p", "baseline": "m"} if "p" in set(table["model"]) else {"model": "m"}
    found = [next_runs(table, target, share * cost, **which) for share in shares]
    more = [table, with_runs(table, again, seed)]
    more += [with_runs(table, one.to_frame(), seed) for one in found]
    intervals = [realised(one, target, seed) for one in more]
    return Draw(
        before=intervals[0].half,
        grid=intervals[1].half,
        expected=np.array([one.half[-1] for one in found]),
        realised=np.array([one.half for one in intervals[2:]]),
        spent=np.array([one.flops / cost for one in found]),
        held=np.array([one.low <= truth <= one.high for one in intervals]),
    )


def measure(
    target: str, draws: int, first: int = FIRST, shares: Sequence[float] = SHARES
) -> pd.DataFrame:
    """A row a share: medians over draws, the half-widths in that of the grid once more; and the
    shares of intervals that hold the truth, before, of the grid once more and after.
    """
    every = [draw(target, seed, shares) for seed in tqdm(range(first, first + draws), desc=target)]
    held = np.mean([one.held for one in every], axis=0)
    grid = np.median([one.grid for one in every])
    rows = []
    for k, share in enumerate(shares):
        ratio = np.array([one.realised[k] / one.expected[k] for one in every])
        rows.append(
            {
                "target": target,
                "of the grid's FLOPs": share,
                "spent": np.median([one.spent[k] for one in every]),
                "before": np.median([one.before for one in every]) / grid,
                "width": np.median([one.realised[k] for one in every]) / grid,
                "realised / expected": np.median(ratio),
                "error of its logarithm": _error_of_median(np.log(ratio)),
                "of quartiles": "{:.2f} to {:.2f}".format(*np.quantile(ratio, [0.25, 0.75])),
                "held before": held[0],
                "held, grid": held[1],
                "held": held[2 + k],
            }
        )
    return pd.DataFrame(rows)


def _error_of_median(values: np.ndarray) -> float:
    """Standard error of a median of normal values, whose spread is by quartiles."""
    low, high = np.quantile(values, [0.25, 0.75])
    return float(np.sqrt(np.pi / 2) * (high - low) / 1.349 / np.sqrt(len(values)))


def main(draws: int, first: int = FIRST, *targets: str) -> None:
    every = [measure(target, draws, first) for target in targets or TARGETS]
    print(pd.concat(every, ignore_index=True).round(3).to_string(index=False))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:3]), *sys.argv[3:])
