"""Checks of a table's values. Each error names the row, the column, the value and the remedy."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from analysis.settings import setting
from analysis.table.trunks import trunk_again
from experiments.records.record import STATUSES
from experiments.system.plain_text import shortened

AMOUNTS = (
    "budget",
    "n_params",
    "n_active_params",
    "n_non_embedding_params",
    "n_tokens",
    "flops_per_token",
)
COUNTS = ("n_experts", "n_heads", "top_k", "n_layers", "d_model", "n_steps")
MIN_LOSS = 1e-6  # no text is predicted better; a smaller number is of something else
MAX_LOSS = 20.0  # nats/token: more than guessing among 4e8 tokens costs
_SHORT = 0.02  # that a run of one pass may be shorter than its data, by whole steps
MAX_RATIO = 100.0  # of budget to 6 N D: attention adds far less, and a unit is 1000 or more
_REMEDIES = {
    "n_tokens": "give it, or flops_per_token beside budget, or load with {}",
    "budget": "give it, or flops_per_token beside n_tokens, or load with {}",
    "n_active_params": "give it; it is n_params only in a model without experts",
}


def refuse(frame: pd.DataFrame, column: str, bad: pd.Series, rule: str) -> None:
    """Raises ValueError for the first row that is bad: run_id or line, column, value, rule."""
    if bad.any():  # NA is not
        i = int(bad.fillna(False).to_numpy(dtype=bool).argmax())
        raise ValueError(f"{_row_name(frame, i)}: {column}={_shown(frame[column].iloc[i])} {rule}")


def _row_name(frame: pd.DataFrame, i: int) -> str:
    run_id = frame["run_id"].iloc[i] if "run_id" in frame else None
    return str(frame.index[i]) if pd.isna(run_id) else f"run {run_id}"


def _shown(value: object) -> str:
    return shortened(repr(value.item() if isinstance(value, np.generic) else value), 200)


def check_types(
    table: pd.DataFrame, numbers: Sequence[str] = (), texts: Sequence[str] = ()
) -> None:
    """Raises ValueError for the first value of these columns, of those that are there, which is
    neither missing nor a finite number, or a text. Columns beside COLUMNS are as records have them.
    """
    for name in (*numbers, *texts):
        if name not in table:
            continue
        kind = "a text" if name in texts else "a finite number"
        bad = [not _is(value, kind) for value in table[name]]
        refuse(table, name, pd.Series(bad, index=table.index), f"must be {kind}, or be missing")


def _is(value: object, kind: str) -> bool:
    if value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value)):
        return True
    if kind == "a text":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return math.isfinite(float(value))


def check_losses(table: pd.DataFrame, name: str) -> None:
    """Raises ValueError for the first loss of another text than the runs' own that can't be one."""
    values = table[name].astype("float64")
    bad = (values < MIN_LOSS) | (values > MAX_LOSS)
    refuse(table, name, bad, f"must be nats per token, above 0 and {MAX_LOSS:g} at most")


def check_amounts(table: pd.DataFrame) -> None:
    """Raises ValueError for the first amount or count, as given, that can't be."""
    for name in AMOUNTS:
        refuse(table, name, np.isinf(table[name]), "must be finite")
        refuse(table, name, table[name] <= 0, "must be above 0")
    for name in COUNTS:
        refuse(table, name, table[name] < 1, "must be 1 or more")
    refuse(table, "unique_tokens", table["unique_tokens"] <= 0, "must be above 0")
    bad_rate = np.isinf(table["lr"]) | (table["lr"] < 0)
    refuse(table, "lr", bad_rate, "must be finite, and 0 or more")


def check_unique(table: pd.DataFrame, names: Mapping[str, str]) -> None:
    """Raises ValueError for a run with more unique tokens than tokens; names: the table's own."""
    tokens, unique = (names.get(name, name) for name in ("n_tokens", "unique_tokens"))
    swapped = setting("columns", {"n_tokens": unique, "unique_tokens": tokens})
    refuse(
        table,
        "unique_tokens",
        table["unique_tokens"] > table["n_tokens"] * (1 + _SHORT),
        "is more than all tokens of the run, repeats included: are the two columns swapped? "
        f"{swapped} reads them the other way round; of a run that stops before its data end, the "
        "unique tokens are those it read",
    )


def check_runs(table: pd.DataFrame) -> None:
    """Raises ValueError for the first run that can't be, once what is absent has been derived."""
    done = table["status"] == "done"
    refuse(table, "model", table["model"].isna(), "is empty; name it, or leave the row out")
    refuse(table, "status", ~table["status"].isin(STATUSES), f"is not one of {', '.join(STATUSES)}")
    no_size = done & table["n_params"].isna() & table["n_active_params"].isna()
    refuse(table, "n_params", no_size, "and n_active_params are both missing; give one")
    for name in ("budget", "n_tokens"):
        if table.loc[done, name].notna().any():
            rule = f"is missing, and other runs have it; {_remedy(name)}"
            refuse(table, name, done & table[name].isna(), rule)
    _check_loss(table, done)
    too_many = table["n_active_params"] > table["n_params"]
    refuse(table, "n_active_params", too_many, "must not exceed n_params; are the two swapped?")
    again = table["run_id"].notna() & table["run_id"].duplicated()
    again &= ~trunk_again(table, "run_id")
    refuse(table, "run_id", again, "occurs twice: two sweeps in one folder?")
    _check_units(table[done])


def _check_loss(table: pd.DataFrame, done: pd.Series) -> None:
    known = np.isfinite(table["loss"]) & (table["loss"] > 0)
    remedy = "set its status to failed or diverged, or leave the row out"
    refuse(table, "loss", done & ~known, f"must be above 0 if done, and finite; {remedy}")
    refuse(
        table,
        "loss",
        done & (table["loss"] < MIN_LOSS),
        f"is below {MIN_LOSS:g} nats per token, which no text allows: is this the loss's column?",
    )
    refuse(
        table,
        "loss",
        done & (table["loss"] > MAX_LOSS),
        f"is above {MAX_LOSS:g} and looks like a perplexity or bits: nats per token are wanted, "
        "the logarithm of a perplexity, or bits * ln 2; "
        f"{setting('units', {'loss': 'perplexity'})} says which",
    )


def _check_units(done: pd.DataFrame) -> None:
    """Budgets against 6 N D, of the runs that are done: others have not used theirs up."""
    active = done["n_active_params"].notna()
    n = done["n_active_params"].fillna(done["n_params"])
    ratio = done["budget"] / (6 * n * done["n_tokens"])
    known = ratio[active].dropna() if ratio[active].notna().any() else ratio.dropna()
    if known.empty:
        return
    median = float(known.median())
    usual = 1 / MAX_RATIO <= median <= MAX_RATIO
    middle = median if usual else 1.0
    # Where only the total is known, a sparse model's ratio may well be low
    off = (ratio > middle * MAX_RATIO) | (active & (ratio < middle / MAX_RATIO))
    if off.any():
        i = int(off.to_numpy().argmax())
        raise ValueError(
            f"{_row_name(done, i)}: budget={done['budget'].iloc[i]:.4g}, N={n.iloc[i]:.4g}, "
            f"n_tokens={done['n_tokens'].iloc[i]:.4g}: budget / (6 N n_tokens) is "
            f"{ratio.iloc[i]:.3g}, the table's median is {median:.3g} and 1 is expected: mixed "
            "units? FLOPs, not PFLOPs; parameters and tokens, not billions, are wanted"
            f"{_unit_remedy(median)}"
        )


def _unit_remedy(median: float) -> str:
    """Name the units of a whole table that would explain the ratio; "" where none is near it."""
    likely = {
        -6: {"budget": "MFLOP"},
        -9: {"budget": "GFLOP"},
        -12: {"budget": "TFLOP"},
        -15: {"budget": "PFLOP"},
        -18: {"budget": "EFLOP"},
        -20: {"budget": "PF-day"},
        6: {"n_params": "M"},
        9: {"n_tokens": "B"},
        15: {"n_params": "M", "n_tokens": "B"},
        18: {"n_params": "B", "n_tokens": "B"},
    }
    power = round(math.log10(median))
    found = min(likely, key=lambda exponent: abs(exponent - power))
    near = abs(found - power) <= 1
    return f"; of the whole table: {setting('units', likely[found])}, or another" if near else ""


def finished(table: pd.DataFrame) -> pd.DataFrame:
    """Runs that are done. Raises ValueError if there is none."""
    if "status" not in table:
        raise ValueError("the table has no status; pass it through check_table first")
    done = table[table["status"] == "done"]
    if done.empty:
        counts = ", ".join(f"{n} {name}" for name, n in table["status"].value_counts().items())
        no_loss = "loss" in table and len(table) and not np.isfinite(table["loss"]).any()
        named = setting("columns", {"loss": "MY_NAME"})
        why = f"; no row has a finite loss; {named} names it" if no_loss else ""
        raise ValueError(f"no finished run in the table: {counts or 'it has no rows'}{why}")
    return done


def require(table: pd.DataFrame, names: Sequence[str], what: str) -> None:
    """Raises ValueError if one of these columns is absent, or unknown for a run that is done.

    what: who needs it, e.g. "fit_isoflop", for the message.
    """
    done = finished(table)
    for name in names:
        unknown = done[name].isna() if name in done else None
        if unknown is not None and not unknown.any():
            continue
        if unknown is None or unknown.all():
            why = "the table has none"
        else:
            first = _row_name(done, int(unknown.to_numpy().argmax()))
            why = f"{unknown.sum()} of {len(done)} finished runs have none, e.g. {first}"
        raise ValueError(f"{what} needs {name}: {why}; {_remedy(name)}")


def _remedy(name: str) -> str:
    """Remedy for a column that lacks."""
    remedy = _REMEDIES.get(name, f"load with {setting('columns', {name: 'MY_NAME'})}")
    return remedy.replace("{}", setting("flops", "6nd"))
