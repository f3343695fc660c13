"""Rows of one table that look as if they were in another unit than its others: warnings, no errors.

A unit is 1000 times another or more, and a bit 1.44 of a nat. What no table of models has is taken
for a unit, of the finished runs:

- sizes, tokens and FLOPs: no value for three orders of magnitude between two of them, where tokens
  or FLOPs are unknown. Where both are known checks.py compares each run with 6 N D;
- rates: those of one series at two sizes or lengths, or two neighbours, are 300 times apart in the
  geometric mean. Best rates of neighbouring sizes differ by less than 3 times;
- losses: 1.3 to 1.6 times the lowest of the same budget and size, or of the budget's lowest between
  series, where none is 1.12 to 1.3 times it or more than 1.6; or a series' lowest loss rises so
  from one budget of three sizes or more to the next. A rate that is too high, which does the same,
  has others between.

So rows in bits at all sizes of a table's smallest budget alone are not seen.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from analysis.fitting.text import pluralize
from analysis.table.checks import AMOUNTS

_UNIT, _RATES = 1000 * (1 - 1e-9), 300.0
_BIT = (1.3, 1.6)  # 1 / ln 2 = 1.443, of losses that differ by a tenth besides
_ALIKE = 1.12
_RISES, _FEWEST = 1.25, 3


def mixed_units(table: pd.DataFrame) -> list[str]:
    """Warnings; each names rows, their factor and the remedy."""
    done = table[table["status"] == "done"].reset_index(drop=True)
    return [text for text in (*_of_amounts(done), _of_rates(done), _of_losses(done)) if text]


def _of_amounts(done: pd.DataFrame) -> Iterator[str]:
    if done[["budget", "n_tokens"]].notna().all(axis=None):
        return
    seen: list[np.ndarray] = []  # rows that a column which another follows from has named
    for name in AMOUNTS:
        values = done[name].to_numpy(dtype=np.float64, na_value=np.nan)
        low = _below_gap(values, _UNIT)
        if low is None:
            continue
        high = np.isfinite(values) & ~low
        few, others = (low, high) if low.sum() <= high.sum() else (high, low)
        if any(np.array_equal(few, rows) for rows in seen):
            continue
        seen.append(few)
        factor = np.nanmin(values[high]) / np.nanmax(values[low])
        side = "below" if few is low else "above"
        yield (
            f"{_rows(done, few, name)} are {factor:.3g} times {side} all {others.sum()} others: in "
            "another unit? Give plain numbers in every row, or leave these out"
        )


def _below_gap(values: np.ndarray, factor: float) -> np.ndarray | None:
    """Those below the widest gap between neighbours; None if no gap is as wide as the factor."""
    there = np.unique(values[values > 0])
    if len(there) < 2 or (there[1:] / there[:-1]).max() < factor:
        return None
    at = int((there[1:] / there[:-1]).argmax())
    return np.asarray(values <= there[at])


def _of_rates(done: pd.DataFrame) -> str | None:
    rates = done["lr"].to_numpy(dtype=np.float64, na_value=np.nan)
    known = done[rates > 0]
    if known.empty:
        return None
    at = [name for name in ("n_params", "n_active_params", "d_model", "n_tokens", "budget")
          if known[name].notna().any()]  # fmt: skip
    logs = pd.Series(np.log(rates[rates > 0]), known.index)
    cells = [known[name] for name in ("series", *at)]
    centre = np.exp(logs.groupby(cells, dropna=False).transform("mean"))
    for _, own in known.groupby("series", sort=False):
        for values in (centre[own.index], own["lr"].astype("float64")):
            low = _below_gap(values.to_numpy(dtype=np.float64), _RATES)
            if low is None:
                continue
            few = low if low.sum() <= len(low) / 2 else ~low
            rows = np.isin(done.index, own.index[few])
            return (
                f"{_rows(done, rows, 'lr')} are hundreds of times off the other rates of "
                f"{own['series'].iloc[0]}: in thousandths (milli)? Give plain rates in every row, "
                "or leave these out"
            )
    return None


def _of_losses(done: pd.DataFrame) -> str | None:
    loss = done["loss"].astype("float64")
    amount = "budget" if done["budget"].notna().any() else "n_tokens"
    size = next((n for n in ("n_params", "n_active_params") if done[n].notna().any()), amount)
    best = loss.groupby([done["series"], done[amount]]).min()
    by_series = pd.MultiIndex.from_frame(done[["series", amount]])
    own = pd.Series(best.reindex(by_series).to_numpy(), done.index)
    for values, among in ((loss, [amount, size]), (own, [amount])):
        ratio = (values / values.groupby([done[n] for n in among]).transform("min")).to_numpy()
        off = (ratio >= _BIT[0]) & (ratio <= _BIT[1])
        if off.any() and not ((ratio > _ALIKE) & ~off).any():
            where = " and ".join("size" if name == size else name for name in among)
            return _of_bits(done, off, np.median(ratio[off]), f"the lowest of the same {where}")
    if amount != "budget":
        return None
    runs = loss.groupby([done["series"], done[amount]]).transform("size")
    best = loss[runs >= _FEWEST].groupby([done["series"], done[amount]]).min()
    for series, lowest in best.groupby(level=0):
        rise = lowest.to_numpy()[1:] / lowest.to_numpy()[:-1]
        at = np.flatnonzero((rise >= _RISES) & (rise <= _BIT[1]))
        if len(at):
            budget = lowest.index.get_level_values(1)[at[0] + 1]
            off = ((done["series"] == series) & (done["budget"] == budget)).to_numpy()
            return _of_bits(done, off, rise[at[0]], f"{series}'s at the budget below")
    return None


def _of_bits(done: pd.DataFrame, off: np.ndarray, factor: float, than: str) -> str:
    return (
        f"{_rows(done, off, 'loss')} are {factor:.3g} times {than}, and a bit is 1.44 times a nat: "
        "are they in bits? If so, multiply them by ln 2; else leave them out"
    )


def _rows(done: pd.DataFrame, off: np.ndarray, name: str) -> str:
    """ "lr of 3 of 12 runs (e.g. 0.3 of run a)"."""
    first = done.iloc[int(off.argmax())]
    names = [n for n in ("budget", "n_params", "n_tokens") if n != name and pd.notna(first[n])]
    at = [f"run {first['run_id']}"] if pd.notna(first["run_id"]) else [
        str(first["series"]), *(f"{n}={first[n]:.4g}" for n in names)
    ]  # fmt: skip
    count = f"{int(off.sum())} of {pluralize(len(done), 'run')}"
    return f"{name} of {count} (e.g. {first[name]:.4g} of {' '.join(at)})"
