"""Budgets as runs counted them: values near one another are one budget, or budgets are named."""

import math
from collections.abc import Sequence

import numpy as np
import pandas as pd

from analysis.fitting.text import join_first, pluralize
from analysis.settings import setting

COUNTED = "counted_budget"  # FLOPs of a run by its own count, beside the budget that it belongs to
TOLERANCE = 0.01  # as marin plans: a run's FLOPs are within 1 % of its budget
_PLANNED = 0.5  # of the runs share their budget with another run where budgets were planned
_ROUNDING = 1e-9  # of limits that are themselves quotients
_DIGITS = 15  # that a float64 can tell


def own_budget(table: pd.DataFrame) -> str:
    """Column with each run's own FLOPs, whatever budget it belongs to."""
    return COUNTED if COUNTED in table else "budget"


def join_budgets(
    table: pd.DataFrame,
    notes: list[str],
    *,
    budgets: Sequence[float] | None = None,
    tolerance: float = TOLERANCE,
) -> tuple[pd.DataFrame, str]:
    """Table with one budget for the runs that belong to it, and what was left out; "" nothing.

    budgets, in FLOPs: those that runs belong to, each to the nearest if it is within the relative
    tolerance; other runs are left out. Without them, values are one budget if a value is within
    the tolerance of all, and no other value is so near that it might belong there too; none are
    if most runs would still be alone at their budget. It is named by the roundest number from the
    smallest to the largest. Where a budget changes, the run's own is COUNTED. Raises ValueError
    for budgets that can't be, or that have no run.
    """
    if not 0 <= tolerance < 0.5:
        raise ValueError(
            f"{setting('budget_tolerance', tolerance)} must be 0 or more, and below 0.5"
        )
    counted = table[own_budget(table)].astype("float64")
    left = ""
    if budgets is None:
        names = _groups(counted.dropna().unique(), tolerance)
        joined = counted.map(lambda value: names.get(value, value))
        if joined.duplicated(keep=False).sum() < _PLANNED * len(joined):
            joined = counted  # some values are always near one another
        if COUNTED in table:  # a table that was joined before keeps what is not joined now
            joined = joined.where(joined != counted, table["budget"])
    else:
        joined, left = _nearest(table, counted, budgets, tolerance)
        keep = joined.notna()
        table, counted, joined = table[keep], counted[keep], joined[keep]
    changed = joined.notna() & (joined != table["budget"])
    if changed.any():
        counts = (counted[changed].nunique(), joined[changed].nunique())
        most = float((counted / joined - 1).abs().max())
        notes.append(
            f"{pluralize(counts[0], 'value')} of budget, as runs counted them, "
            f"{'is' if counts[0] == 1 else 'are'} {pluralize(counts[1], 'budget')}: they are "
            f"within {tolerance:.3g} of it, at most {most:.2g} off; "
            f"{setting('budget_tolerance', 0)} keeps them apart, and {COUNTED} has them"
        )
        table = table.assign(**{"budget": joined, COUNTED: counted})
    return table, left


def _groups(values: np.ndarray, tolerance: float) -> dict[float, float]:
    """Values that are one budget -> the budget. Of values that follow one another without a gap,
    over more than the tolerance allows, none are.
    """
    if tolerance == 0:
        return {}
    values = np.sort(values.astype(np.float64))
    widest = (1 + tolerance) / (1 - tolerance) * (1 + _ROUNDING)
    cuts = np.flatnonzero(values[1:] > values[:-1] * widest) + 1
    found = {}
    for group in np.split(values, cuts):
        if len(group) > 1 and group[-1] <= group[0] * widest:
            low, high = float(group[0]), float(group[-1])
            name = _roundest(max(low, high / (1 + tolerance)), min(high, low / (1 - tolerance)))
            found.update(dict.fromkeys(group.tolist(), name))
    return found


def _roundest(low: float, high: float) -> float:
    """Number of the fewest significant digits that is from low to high, by their middle."""
    middle = math.sqrt(low) * math.sqrt(high)
    for digits in range(_DIGITS):
        name = float(f"{middle:.{digits}e}")
        if low <= name <= high:
            return name
    return middle


def _nearest(
    table: pd.DataFrame, counted: pd.Series, budgets: Sequence[float], tolerance: float
) -> tuple[pd.Series, str]:
    """Budget that each run belongs to, NaN if to none; and what is left out."""
    named = np.unique(np.array(budgets, dtype=np.float64))
    if not len(named) or not np.isfinite(named).all() or named[0] <= 0:
        raise ValueError(
            f"{setting('budgets', list(budgets))} must be finite numbers of FLOPs above 0"
        )
    if counted.isna().all():
        raise ValueError(
            f"{setting('budgets')}: the table has no budget; "
            f"{setting('columns', {'budget': 'MY_NAME'})} names it"
        )
    off = np.abs(counted.to_numpy()[:, None] / named - 1)
    at = np.where(np.isnan(off), np.inf, off).argmin(axis=1)
    nearest = off[np.arange(len(off)), at]
    within = nearest <= tolerance * (1 + _ROUNDING)
    empty = [f"{name:g}" for k, name in enumerate(named) if not (within & (at == k)).any()]
    if empty:
        have = sorted(counted.dropna().unique())
        raise ValueError(
            f"{setting('budgets')}: no run is within {tolerance:.3g} of {', '.join(empty)}; they "
            f"have {join_first([f'{value:.4g}' for value in have], 12)}; "
            f"{setting('budget_tolerance', 0.05)} takes runs from further off"
        )
    joined = pd.Series(np.where(within, named[at], np.nan), index=counted.index)
    if within.all():
        return joined, ""
    rest = counted[~within]
    shown = [f"{value:.4g}" for value in sorted(rest.dropna().unique())] or ["unknown"]
    return joined, (
        f"left out: {len(rest)} of {pluralize(len(table), 'run')}, whose budgets are not within "
        f"{tolerance:.3g} of {', '.join(f'{name:g}' for name in named)}: {join_first(shown)}"
    )
