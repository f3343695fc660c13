"""Table of docs/comparisons.md: coverage of 95 % intervals of lowest losses by curves together.

    python -m tests.analysis.contrast.simulated 400

Truths are curves of five layers at three budgets, by size as in the study or as it is planned.
"""

import sys
from typing import NamedTuple

import numpy as np
import pandas as pd
from tqdm import tqdm

from analysis.contrast.beside import Beside, OfDocuments
from analysis.contrast.compute import contrast_points
from analysis.contrast.points import Points
from analysis.contrast.settings import Settings
from analysis.contrast.sources import NOISE_ALONE, Sources
from analysis.fitting.status import FitError
from tests.analysis.contrast.rated import rated

FIRST = 20_000  # seed; the method was found on others
LAYERS = ("dense", "none", "moe_fine", "pkm", "peer")
CLASSES = {"sparse": ["moe_fine", "pkm", "peer"], "rest": ["dense", "none"]}
BUDGETS = (1e13, 3e13, 1e14)
NOISE = {"rest": (0.009, 0.007, 0.005), "sparse": (0.017, 0.03, 0.02)}  # nats, the study's
ALIKE = {"rest": (0.015,) * 3, "sparse": (0.015,) * 3}
STUDY = ((1, 1, 3, 1), (1, 1, 3, 1), (1, 1, 3, 1))  # seeds of the sizes of a budget
PLAN = ((2, 6, 2), (2, 6, 2), (1, 2, 1))
SECOND = ((1, 3, 1), (1, 3, 1), (1, 2, 1))  # of the second edition, and its noise
SECOND_NOISE = {"rest": (0.012, 0.02, 0.005), "sparse": (0.034, 0.046, 0.01)}


class Way(NamedTuple):
    """seeds: of the sizes of each budget; noise: of classes by budget; bends: of layers, the truth;
    added: true best sizes are a layer's and a budget's part; documents: held out, of which each
    layer finds some easier than others do, 0: the losses are of all text; rates: by a "law" with
    an error, or by one that is fitted to "trials", else the best; straight: the frontiers are lines
    in ln C, else powers of it with one asymptote, of equal savings at all budgets; how: contrast's
    arguments.
    """

    seeds: tuple[tuple[int, ...], ...]
    noise: dict[str, tuple[float, ...]]
    bends: tuple[float, ...] = (1.0,) * 5
    added: bool = False
    documents: int = 0
    rates: str = ""
    straight: bool = True
    how: dict[str, object] = {}  # noqa: RUF012 - nobody writes to it


NAMED = {"classes": CLASSES}
LENGTHS = 1.0  # standard deviation of ln(tokens) of documents
HARD, OWN, BY_RUN = 0.5, 0.1, 0.05  # nats of a document: for all, for one layer, in one run
WAYS = {
    "as planned": Way(PLAN, NOISE, how=NAMED),
    "as planned, --errors seeds": Way(PLAN, NOISE, how={**NAMED, "errors": "seeds"}),
    "as planned, --errors scatter": Way(PLAN, NOISE, how={**NAMED, "errors": "scatter"}),
    "as the study": Way(STUDY, NOISE, how=NAMED),
    "as the study, layer+budget": Way(
        STUDY, NOISE, added=True, how={**NAMED, "centres": "layer+budget"}
    ),
    "as the study, classes by test": Way(STUDY, NOISE),
    "as the study, one noise, classes by test": Way(STUDY, ALIKE),
    "as the study, --curvature layer": Way(STUDY, NOISE, how={**NAMED, "curvature": "layer"}),
    "as planned, 400 documents": Way(PLAN, NOISE, documents=400, how=NAMED),
    "as planned, 50 documents": Way(PLAN, NOISE, documents=50, how=NAMED),
    "as the study, 166 documents": Way(STUDY, NOISE, documents=166, how=NAMED),
    "as planned, rates by a law": Way(PLAN, NOISE, rates="law", how=NAMED),
}
TRIALS = {"as planned, rates by a law of 15 cells": Way(PLAN, NOISE, rates="trials", how=NAMED)}
SECOND_EDITION = {
    "as the second edition": Way(SECOND, SECOND_NOISE, documents=891, rates="trials", how=NAMED),
    "as the second edition, best rates": Way(SECOND, SECOND_NOISE, documents=891, how=NAMED),
}
UNLIKE = (1.1, 1.1, 0.9, 0.9, 0.9)
LAYERS_OWN = {**NAMED, "curvature": "layer"}
OFF = {
    "sparse curvatures .9 of the rest's, one fitted": Way(
        PLAN, NOISE, (1.05, 1.05, 0.95, 0.95, 0.95), how=NAMED
    ),
    "sparse curvatures .8 of the rest's, one fitted": Way(PLAN, NOISE, UNLIKE, how=NAMED),
    "the same, --curvature layer": Way(PLAN, NOISE, UNLIKE, how=LAYERS_OWN),
    "sparse curvatures .7 of the rest's, one fitted": Way(
        PLAN, NOISE, (1.2, 1.2, 0.84, 0.84, 0.84), how=NAMED
    ),
}
IGNORED = {
    f"{name}, not in the intervals": WAYS[name]
    for name in ("as planned, 50 documents", "as planned, rates by a law")
}
CURVED = {"as planned, frontiers that are powers": Way(PLAN, NOISE, straight=False, how=NAMED)}
TRIAL_NOISE = 0.015  # nats
FLOOR, FALL, SAVED = 2.0, 0.14, 0.12  # asymptote, exponent, ln multiplier of a layer


class Text:
    """Documents that were drawn, of which each part of a loss is 0 on the average over all text."""

    def __init__(self, n: int, rng: np.random.Generator) -> None:
        self.n_tokens = np.ceil(400 * np.exp(LENGTHS * rng.standard_normal(n)))
        self.share, self._rng = self.n_tokens / self.n_tokens.sum(), rng
        self._each = HARD * rng.standard_normal(n) + OWN * rng.standard_normal((len(LAYERS), n))

    def losses(self, layer: int, runs: int) -> np.ndarray:
        """(runs, D), beside what a loss is over all text."""
        own = BY_RUN * self._rng.standard_normal((runs, len(self.share)))
        return self._each[layer] + own

    def source(self, losses: np.ndarray) -> OfDocuments:
        """Same of points' losses (S, D)."""
        off = losses - losses @ self.share[:, None]
        return OfDocuments(residuals=off * self.share, n_tokens=self.n_tokens)


class Truth(NamedTuple):
    points: Points
    lowest: dict[tuple[str, float], float]
    straight: bool
    sources: Sources

    def log_multiplier(self, layer: str, baseline: str, budget: float) -> float:
        """ln of the true one: by straight lines in ln C, or of powers what each layer saves."""
        if not self.straight:
            return SAVED * (LAYERS.index(layer) - LAYERS.index(baseline))
        log_c = np.log(BUDGETS)
        losses = [self.lowest[baseline, at] for at in BUDGETS]
        loss = self.lowest[layer, budget]
        i = 0 if loss > losses[1] else 1
        way = (loss - losses[i]) / (losses[i + 1] - losses[i])
        return float(log_c[i] + way * (log_c[i + 1] - log_c[i]) - np.log(budget))


def drawn(way: Way, rng: np.random.Generator) -> Truth:
    """Points of one table. Best sizes are up to a third of a step from the middle size."""
    cells = [(layer, budget) for layer in LAYERS for budget in BUDGETS]
    of, u, losses, n, squares, lowest, by_text = [], [], [], [], [], {}, []
    text = Text(way.documents, rng) if way.documents else None
    shift = rng.uniform(-0.08, 0.08, (len(LAYERS), len(BUDGETS)))
    if way.added:
        shift = shift[:, :1] + shift[:1]
    for i, (layer, budget) in enumerate(cells):
        k, b = LAYERS.index(layer), BUDGETS.index(budget)
        name = "sparse" if layer in CLASSES["sparse"] else "rest"
        middle = 4 + b
        lowest[layer, budget] = 3.8 - 0.25 * b - 0.03 * k
        if not way.straight:
            lowest[layer, budget] = FLOOR + 1.8 * (budget / 1e13 * np.exp(SAVED * k)) ** -FALL
        seeds = way.seeds[b]
        for j, count in enumerate(seeds):
            at = np.log(middle + j - int(np.argmax(seeds)))
            off = at - (np.log(middle) + shift[k, b])
            drawn_ = way.noise[name][b] * rng.standard_normal(count)
            if text is not None:
                each = text.losses(k, count)
                by_text.append(each.mean(axis=0))
                drawn_ = drawn_ + each @ text.share
            of.append(i)
            u.append(at)
            losses.append(lowest[layer, budget] + way.bends[k] * off**2 + drawn_.mean())
            n.append(count)
            squares.append(((drawn_ - drawn_.mean()) ** 2).sum())
    places = np.array(u)
    beside: list[Beside] = [] if text is None else [text.source(np.array(by_text))]
    if way.rates:
        trials = TRIAL_NOISE if way.rates == "trials" else None
        found = rated(LAYERS, [cells[i] for i in of], 16 * np.exp(places), rng, trials)
        losses = list(np.array(losses) + found.costs)
        beside.append(found.error)
    points = Points(
        x_name="n_layers",
        centre=float(places.mean()),
        cells=tuple(cells),
        of=np.array(of),
        u=places - places.mean(),
        losses=np.array(losses),
        n=np.array(n),
        squares=np.array(squares),
        left_out=(),
    )
    return Truth(points, lowest, way.straight, Sources(beside=tuple(beside)))


def slope_over(logs: list[float]) -> float:
    """Slope of a line by least squares over ln C of all budgets."""
    return float(np.polyfit(np.log(BUDGETS), logs, 1)[0])


def coverage(way: Way, draws: int, first: int = FIRST, *, told_of: bool = True) -> dict[str, float]:
    """Share of intervals that hold the truth: of differences from `none`, those of the worst
    layer and budget, lowest losses, multipliers and slopes of their logarithm over ln C. The
    half-width of differences (median, nats), the mean error of the worst difference (nats) and of
    slopes, and the share of tables that are warned of unequal curvatures, and of those that are
    refused and count nowhere else. told_of: intervals hold which documents were drawn, where losses
    are of some, and the law's errors, where rates are by one.
    """
    held, errors, widths, minima, told, multipliers, refused = [], [], [], [], [], [], 0
    slopes, low = [], []
    for seed in range(first, first + draws):
        truth = drawn(way, np.random.default_rng(seed))
        try:
            found = contrast_points(
                truth.points,
                Settings(baselines=["none"], **way.how),
                truth.sources if told_of else NOISE_ALONE,
            )
        except FitError:  # a curve that opens downwards is refused
            refused += 1
            continue
        true = [
            truth.lowest[one.layer, one.budgets[0]] - truth.lowest["none", one.budgets[0]]
            for one in found.differences
        ]
        pairs = list(zip(found.differences, true, strict=True))
        held.append([one.value.lower <= t <= one.value.upper for one, t in pairs])
        for one in found.differences:
            log = truth.log_multiplier(one.layer, "none", one.budgets[0])
            multipliers.append(one.multiplier.lower <= np.exp(log) <= one.multiplier.upper)
        for slope in found.slopes:
            logs = [truth.log_multiplier(slope.layer, "none", budget) for budget in BUDGETS]
            slopes.append(slope.value.lower <= slope_over(logs) <= slope.value.upper)
            low.append(slope.value.value - slope_over(logs))
        errors.append([one.value.value - t for one, t in pairs])
        widths += [one.half_width for one in found.differences]
        for minimum in found.minima:
            at = truth.lowest[minimum.layer, minimum.budget]
            minima.append(minimum.loss.lower <= at <= minimum.loss.upper)
        told.append(found.p_curvature < 0.05)
    by_cell = np.mean(held, axis=0)
    return {
        "differences": float(by_cell.mean()),
        "worst": float(by_cell.min()),
        "best": float(by_cell.max()),
        "lowest losses": float(np.mean(minima)),
        "multipliers": float(np.mean(multipliers)),
        "slopes": float(np.mean(slopes)),
        "half-width": float(np.median(widths)),
        "mean error": float(np.abs(np.mean(errors, axis=0)).max()),
        "mean error of slopes": float(np.mean(low)),
        "told": float(np.mean(told)),
        "refused": refused / draws,
    }


def main(draws: int, first: int = FIRST) -> None:
    every = {**WAYS, **SECOND_EDITION, **TRIALS, **OFF, **IGNORED, **CURVED}
    for name, way in tqdm(every.items(), desc="ways", disable=None):
        found = pd.Series(coverage(way, draws, first, told_of=name not in IGNORED)).round(3)
        print(f"| {name} | " + " | ".join(map(str, found)) + " |", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
