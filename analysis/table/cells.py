"""One number of a cell of runs: averaged over seeds, best of the learning rates."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd

from analysis.table.checks import finished


class _Best(NamedTuple):
    position: int  # of the run with the lowest loss
    loss: float  # nats/token, the mean over seeds
    sd: float
    n_seeds: int
    runs: np.ndarray  # whose mean it is


class _Runs(NamedTuple):
    """A value a run that was done or diverged; lr and seed NaN where unknown."""

    loss: np.ndarray
    lr: np.ndarray
    seed: np.ndarray


def best_of_cells(table: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """A row for each cell, that is each combination of values (NA too) of the columns `by`.

    For each learning rate the losses of its seeds are averaged, then the best learning rate is
    taken: never a mean over what was tuned. So where seeds do not distinguish the runs of a
    learning rate (the same twice, or unknown), the best of these runs stands alone.

    The row is the best run's, with loss the mean over seeds in nats/token, perplexity its exp, and
    loss_sd the sample standard deviation over seeds (NaN for one), n_seeds, run_ids (of that mean;
    None where the table has no run_id), n_runs (done, of the cell), and lr_at_edge: three or more
    learning rates were tried, diverged ones too, and the best is the smallest or the largest.
    Raises ValueError if there is no such column or no finished run.
    """
    names = [by] if isinstance(by, str) else list(by)
    absent = [name for name in names if name not in table]
    if absent or not names:
        found = ", ".join(map(str, table.columns))
        raise ValueError(f"by={names} is not columns of the table; found {found}")
    finished(table)
    tried = table[table["status"].isin(["done", "diverged"])].reset_index(drop=True)
    tried = tried.assign(**{name: np.nan for name in ("lr", "seed") if name not in tried})
    # On arrays: a pandas operation a cell would take seconds on a table of a few thousand runs.
    runs = _Runs(
        loss=tried["loss"].to_numpy(dtype=np.float64),
        lr=tried["lr"].to_numpy(dtype=np.float64, na_value=np.nan),
        seed=tried["seed"].to_numpy(dtype=np.float64, na_value=np.nan),
    )
    is_done = (tried["status"] == "done").to_numpy(dtype=bool)
    rows = []
    for cell in _groups(tried.groupby(names, dropna=False, sort=False).ngroup().to_numpy()):
        done = cell[is_done[cell]]
        if not len(done):
            continue
        rates = [_of_rate(runs, done[part]) for part in _groups(runs.lr[done])]
        best = min(rates, key=lambda rate: rate.loss)
        lrs = np.unique(runs.lr[cell][~np.isnan(runs.lr[cell])])
        at_edge = len(lrs) >= 3 and runs.lr[best.position] in (lrs[0], lrs[-1])
        rows.append((*best, len(done), at_edge))
    positions, losses, sds, n_seeds, members, n_runs, at_edges = zip(*rows)
    ids = tried["run_id"].to_numpy(dtype=object) if "run_id" in tried else np.full(len(tried), None)
    return (
        tried.loc[list(positions)]
        .reset_index(drop=True)
        .assign(
            loss=np.array(losses),
            perplexity=np.exp(losses),
            loss_sd=np.array(sds),
            n_seeds=np.array(n_seeds),
            run_ids=pd.Series([tuple(ids[runs]) for runs in members], dtype=object),
            n_runs=np.array(n_runs),
            lr_at_edge=np.array(at_edges, dtype=bool),
        )
    )


def _groups(values: np.ndarray) -> list[np.ndarray]:
    """Positions of each value, NaN being one, in order of first appearance."""
    _, first, codes = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(codes, kind="stable")
    parts = np.split(order, np.cumsum(np.bincount(codes))[:-1])
    return [parts[k] for k in np.argsort(first)]


def _of_rate(runs: _Runs, at: np.ndarray) -> _Best:
    losses, seeds = runs.loss[at], runs.seed[at]
    best = int(at[losses.argmin()])
    if len(at) == 1 or np.isnan(seeds).any() or len(np.unique(seeds)) < len(seeds):
        return _Best(best, float(losses.min()), np.nan, 1, np.array([best]))
    return _Best(best, float(losses.mean()), float(losses.std(ddof=1)), len(at), at)
