"""Pairs of runs of one seed: a model and the baseline at equal FLOPs and size."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from analysis import numbers
from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError
from analysis.fitting.text import join_first
from analysis.settings import setting
from analysis.table.checks import finished, require

_SHAPE = ("n_layers", "d_model")  # what a size is, where a table says it


@dataclass(frozen=True, kw_only=True, eq=False)
class Block:
    """Runs of all models at one budget (FLOPs) and size: losses[model][seed] in nats/token.

    size: in words; models in the table's order, the baseline among them.
    """

    budget: float
    size: str
    losses: dict[str, dict[int, float]]

    def seeds(self, model: str, baseline: str) -> list[int]:
        """Seeds that both have, ascending."""
        return sorted(self.losses[model].keys() & self.losses[baseline].keys())

    def differences(self, model: str, baseline: str, first: int | None = None) -> Array:
        """Loss minus the baseline's of each shared seed, of the `first` ones or all."""
        seeds = self.seeds(model, baseline)[:first]
        own, other = self.losses[model], self.losses[baseline]
        return np.array([own[seed] - other[seed] for seed in seeds])


def find_blocks(table: pd.DataFrame, baseline: str) -> list[Block]:
    """Every budget and size at which the baseline and another model have finished runs of one seed,
    budgets ascending.

    A size is a depth and width where the table has them, else the parameters. Of several learning
    rates the one with the most seeds counts, of those the lowest mean loss. Raises ValueError if a
    column is absent or the baseline is no model of the table, FitError if no seed is shared.
    """
    require(table, ["budget", "n_params", "seed"], "pairs of one seed")
    done = finished(table)
    names = list(dict.fromkeys(done["series"]))
    if baseline not in names:
        raise ValueError(
            f"{setting('baseline', baseline)} has no finished run; the table has "
            f"{join_first(names, 8)}"
        )
    shape = [name for name in _SHAPE if name in done and done[name].notna().all()]
    by = ["budget", *(shape or ["n_params"])]
    blocks = []
    for _, runs in done.groupby(by, sort=True):
        budget, *size = (float(runs[name].iloc[0]) for name in by)
        losses = {
            str(series): _of_one_rate(own) for series, own in runs.groupby("series", sort=False)
        }
        block = Block(budget=budget, size=_words(by[1:], size), losses=losses)
        others = [name for name in losses if name != baseline]
        if baseline in losses and any(block.seeds(name, baseline) for name in others):
            blocks.append(block)
    if not blocks:
        raise FitError(
            f"no model has a run of {baseline}'s seed at equal FLOPs and {_words(by[1:])}: there "
            "are no pairs"
        )
    return blocks


def _of_one_rate(runs: pd.DataFrame) -> dict[int, float]:
    """Seed -> loss."""
    rates = [own.drop_duplicates("seed") for _, own in runs.groupby("lr", dropna=False)]
    best = min(rates, key=lambda own: (-len(own), float(own["loss"].mean())))
    seeds, losses = best["seed"].astype(int), best["loss"].astype(float)
    return dict(zip(seeds.tolist(), losses.tolist(), strict=True))


def _words(names: Sequence[str], values: Sequence[float] = ()) -> str:
    """ "4 x 64" of a depth and width, "1.2M" of parameters; the names without values."""
    if not values:
        return " and ".join(names)
    if names == ["n_params"]:
        return numbers.count(values[0])
    return " x ".join(f"{int(value)}" for value in values)
