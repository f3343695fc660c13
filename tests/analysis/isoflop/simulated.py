"""Tables of docs/isoflop.md: intervals beside noise that is not alike, and forms that are others.

    python -m tests.analysis.isoflop.simulated 60 2911000   # tables, the first one's seed

Five budgets of seven sizes, from an eighth to eight times the best, and noise of 0.005 nats.
"""

import sys
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.isoflop.fit import fit_isoflop
from analysis.isoflop.flags import Flag
from tests.analysis.isoflop.truths import (
    BUDGETS,
    broken,
    hoffmann,
    kaplan,
    noisy,
    on_ladder,
    optimum,
    runs,
)
from tests.analysis.tables import surface

SD = 0.005
FIRST = 10_000  # seed; the method was found on others
SKEWED = {"E": 1.69, "A": 4.06e4, "B": 4.11e4, "alpha": 0.64, "beta": 0.40}
FORMS = {
    "Hoffmann": hoffmann,
    "Hoffmann, more skewed": lambda N, D: surface(N, D, **SKEWED),
    "Kaplan": kaplan,
    "broken in D": broken,
}


class Drawn(NamedTuple):
    """noise (35,); bad (5,): budgets whose own runs are to blame."""

    noise: np.ndarray
    bad: np.ndarray


def alike(rng: np.random.Generator) -> Drawn:
    return Drawn(rng.normal(0, SD, 35), np.zeros(5, bool))


def one_dirty_budget(rng: np.random.Generator) -> Drawn:
    """One of the five has 15 times the noise."""
    noise, bad = rng.normal(0, SD, (5, 7)), np.zeros(5, bool)
    at = rng.integers(5)
    noise[at] *= 15
    bad[at] = True
    return Drawn(noise.ravel(), bad)


def outliers(low: float, high: float) -> Callable[[np.random.Generator], Drawn]:
    """One run in 15 is so many nats too high."""

    def drawn(rng: np.random.Generator) -> Drawn:
        noise = rng.normal(0, SD, (5, 7))
        odd = rng.random((5, 7)) < 1 / 15
        return Drawn((noise + odd * rng.uniform(low, high, (5, 7))).ravel(), odd.any(axis=1))

    return drawn


def by_size(rng: np.random.Generator) -> Drawn:
    """Small models are noisier."""
    sd = SD * np.array([3, 2, 1.5, 1, 0.7, 0.5, 0.4])
    return Drawn((rng.normal(0, 1, (5, 7)) * sd).ravel(), np.zeros(5, bool))


def by_budget(rng: np.random.Generator) -> Drawn:
    """Large budgets are noisier."""
    sd = SD * np.array([0.4, 0.7, 1, 2, 4])
    return Drawn((rng.normal(0, 1, (5, 7)) * sd[:, None]).ravel(), np.zeros(5, bool))


NOISES = {
    "alike": alike,
    "15 times at one budget": one_dirty_budget,
    "1 run in 15 is .02 to .15 too high": outliers(0.02, 0.15),
    "1 run in 15 is .2 to 1 too high": outliers(0.2, 1.0),
    "three times at small sizes, .4 at large": by_size,
    ".4 times at the first budget, 4 at the last": by_budget,
}


def intervals(
    draw: Callable[[np.random.Generator], Drawn], n: int, first: int = FIRST
) -> dict[str, float]:
    """Coverage of the best size and its loss, at good budgets and bad ones, and the median width of
    the size's interval at good ones, in ln(size).
    """
    table = runs(hoffmann)
    best = {C: optimum(hoffmann, C) for C in BUDGETS}
    good, lost = [], []
    for seed in range(first, first + n):
        drawn = draw(np.random.default_rng(seed))
        fit = fit_isoflop(table.assign(loss=table["loss"] + drawn.noise), n_draws=300)
        for curve, is_bad in zip(fit.curves, drawn.bad, strict=True):
            N = best[curve.budget]
            low, high = curve.x_interval
            at = low <= N <= high
            if is_bad:
                lost.append(at)
                continue
            truth = hoffmann(N, curve.budget / 6 / N)
            of_loss = curve.loss_interval[0] <= truth <= curve.loss_interval[1]
            width = np.log(high / low) if low > 0 else np.inf
            good.append((at, of_loss, width))
    held, of_loss, widths = np.array(good).T
    return {
        "N*": float(held.mean()),
        "loss*": float(of_loss.mean()),
        "width": float(np.median(widths)),
        "N* of bad budgets": float(np.mean(lost)) if lost else float("nan"),
    }


class Shared(NamedTuple):
    """Standard deviations of an error of each size and of each budget, nats."""

    size: float = 0.0
    budget: float = 0.0


SHARED = {
    "none": Shared(),
    "of a size, .005": Shared(size=0.005),
    "of a size, .01": Shared(size=0.01),
    "of a budget, .005": Shared(budget=0.005),
    "of a budget, .01": Shared(budget=0.01),
}


def under_shared(errors: Shared, n: int, first: int = FIRST) -> dict[str, float]:
    """Coverage of minima, of the exponent of the best size and of ten times the last budget; the
    shares of tables with a flag of a shared error or lack of fit, and of the misses of loss* that
    are in such a table. Seven or eight sizes a budget, of powers of two.
    """
    table = on_ladder(hoffmann)
    sizes, budgets = (pd.factorize(table[name])[0] for name in ("n_params", "budget"))
    best = {C: optimum(hoffmann, C) for C in BUDGETS}
    a = np.polyfit(np.log(BUDGETS), np.log([best[C] for C in BUDGETS]), 1)[0]
    far = 10 * BUDGETS[-1]
    N = optimum(hoffmann, far)
    rows, missed = [], []
    for seed in range(first, first + n):
        rng = np.random.default_rng(seed)
        off = rng.normal(0, SD, len(table)) + rng.normal(0, errors.size, sizes.max() + 1)[sizes]
        off += rng.normal(0, errors.budget, len(BUDGETS))[budgets]
        fit = fit_isoflop(table.assign(loss=table["loss"] + off), n_draws=300)
        truths = [(best[C], hoffmann(best[C], C / 6 / best[C])) for C in BUDGETS]
        held = np.array(
            [
                (c.x_interval[0] <= x <= c.x_interval[1], low <= y <= high)
                for c, (x, y) in zip(fit.curves, truths, strict=True)
                for low, high in [c.loss_interval]
            ]
        )
        law = fit.law()
        named = bool({Flag.SHARED, Flag.LACK_OF_FIT} & set(fit.curves[0].flags))
        missed += [named] * int((~held[:, 1]).sum())
        rows.append(
            (
                *held.mean(axis=0),
                law.exponents["n_params"]["t"].lower <= a <= law.exponents["n_params"]["t"].upper,
                _holds(law.laws["n_params"].predict(far), N),
                _holds(law.laws["loss"].predict(far), hoffmann(N, far / 6 / N)),
                named,
            )
        )
    names = ["N*", "loss*", "a", "N* at 10x", "loss* at 10x", "flagged"]
    found = dict(zip(names, np.array(rows, dtype=float).mean(axis=0).tolist(), strict=True))
    return {**found, "misses flagged": float(np.mean(missed)) if missed else float("nan")}


def _holds(predicted, truth: float) -> bool:
    return bool(predicted.lower[0] <= truth <= predicted.upper[0])


def flagged(law: Callable, n: int, first: int = FIRST) -> float:
    """Share of tables with a warning of lack of fit."""
    table = runs(law)
    found = 0
    for seed in range(first, first + n):
        fit = fit_isoflop(noisy(table, SD, seed), n_draws=0)
        found += any(Flag.LACK_OF_FIT in curve.flags for curve in fit.curves)
    return found / n


def main(n: int, first: int = FIRST) -> None:
    rows = {name: intervals(of, n, first) for name, of in tqdm(NOISES.items(), desc="noises")}
    frame = pd.DataFrame(rows).T
    frame["width"] /= frame["width"].iloc[0]
    print(frame.round(3).to_string())
    rows = {name: under_shared(of, n, first) for name, of in tqdm(SHARED.items(), desc="shared")}
    print(pd.DataFrame(rows).T.round(3).to_string())
    shares = {name: flagged(law, n, first) for name, law in tqdm(FORMS.items(), desc="forms")}
    print(pd.Series(shares, name="flagged").to_string())


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
