"""Table that a terminal shows first: what each cell reached."""

import numpy as np
import pandas as pd

from analysis.table.load import best_of_cells
from analysis.table.merged import find_merged
from analysis.table.units import PER_BYTE, loss_unit

_SHAPE = ("n_layers", "d_model")
_LISTED = 9  # budgets with one size each; of a table without planned budgets there are hundreds


def perplexities(table: pd.DataFrame) -> str:
    """Held-out perplexity, a row for each budget and size, a column for each series.

    Many budgets with one size each are counted, not shown. Of losses per byte it is bits per byte.
    The heading says what was done with several runs.
    """
    done = table[table["status"] == "done"]
    shape = _table_rows(done)
    cells = best_of_cells(done, by=["series", "budget", *shape])
    per_byte = loss_unit(table) == PER_BYTE
    cells = cells.assign(shown=cells["loss"] / np.log(2) if per_byte else cells["perplexity"])
    wide = cells.pivot(index=["budget", *shape], columns="series", values="shown")
    digits = 4 if per_byte else 2
    alone = wide.groupby(level="budget").transform("size") == 1
    shown = wide[~alone] if alone.sum() > _LISTED else wide
    text = shown.to_string(float_format=lambda value: f"{value:.{digits}f}") if len(shown) else ""
    what = "bits per byte" if per_byte else "perplexity per token"
    lines = [f"Held-out {what} ({describe_how(table, cells)}):", *([text] if text else [])]
    if len(shown) < len(wide):
        lines += [f"not shown: {len(wide) - len(shown)} budgets with one size each"]
    causal = done["causal_eval"].fillna(True).astype(bool)
    leaky = sorted(done.loc[~causal, "series"].unique())
    if leaky:
        lines += [f"{', '.join(leaky)}: scored with routing that sees later tokens; not causal"]
    other = table[table["status"] != "done"]
    if len(other):
        stopped = " or were stopped as hopeless" if (other["status"] == "hopeless").any() else ""
        lines += [f"not shown: {len(other)} runs that failed or diverged{stopped}"]
    return "\n".join(lines)


def describe_how(table: pd.DataFrame, cells: pd.DataFrame) -> str:
    """How several runs of a cell became one: "seeds' mean loss, best learning rate"."""
    if cells["n_runs"].max() == 1:
        return "one run each"
    several = cells[cells["n_runs"] > 1]
    merged = find_merged(table)
    steps = {
        "seeds' mean loss": several["n_seeds"].max() > 1,
        "best learning rate": several["lr"].notna().any(),
        merged.how if merged else "": merged is not None,
    }
    return ", ".join(step for step, done in steps.items() if done) or "lowest loss"


def _table_rows(done: pd.DataFrame) -> list[str]:
    """Layers and width where they name a size of each series, else the size."""
    shape = [name for name in _SHAPE if done[name].notna().any()]
    size = "n_params" if done["n_params"].notna().any() else "n_active_params"
    if not shape:
        return [size]
    of_shape = done.groupby(["series", "budget", *shape], dropna=False)[size].nunique()
    return shape if of_shape.max() == 1 else [size]
