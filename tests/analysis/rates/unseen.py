"""How often a law's interval holds the best rate tried in cells that nothing was fitted to.

`python -m tests.analysis.rates.unseen steplaw_dense_1911.csv [BATCH]`: each size and length is left
out in turn, with all its batches; what is fitted to the rest, the form chosen too, says its rates.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from analysis.rates.compare import cost_of
from analysis.rates.fit import fit_rates
from analysis.table.load import load_table

FEWEST = 5  # rates of a cell that is asked


def unseen(table: pd.DataFrame, batch: str | None = None) -> pd.DataFrame:
    """A row a cell: whether the interval of the law and that of a new cell hold the best rate that
    was tried, and what the law's rate costs, nats/token.
    """
    rows = []
    seen = fit_rates(table, batch=batch)
    for size, length in table.groupby(["n_params", "n_tokens"]).groups:
        rest = table[(table["n_params"] != size) | (table["n_tokens"] != length)]
        law = fit_rates(rest, batch=batch).forms[0].law
        for cell in seen.cells:
            if (cell.at["n_params"], cell.at["n_tokens"]) != (size, length):
                continue
            if len(cell.lrs) < FEWEST:
                continue
            narrow, wide = (law.predict(cell.at, new_cell=new) for new in (False, True))
            rows.append(
                {
                    "by_law": bool(narrow.lower[0] <= cell.lr_tried <= narrow.upper[0]),
                    "of_a_new_cell": bool(wide.lower[0] <= cell.lr_tried <= wide.upper[0]),
                    "factor": float(wide.upper[0] / wide.value[0]),
                    "cost": cost_of(cell, float(np.log(wide.value[0]))),
                }
            )
    return pd.DataFrame(rows)


def main(path: str, batch: str | None = None) -> None:
    table = load_table(Path(path), keep=[batch] if batch else [])
    found = unseen(table, batch)
    costs = found["cost"].dropna()
    print(
        f"{len(found)} cells: the law's interval holds the best rate tried in "
        f"{found['by_law'].mean():.2f}, that of a new cell in {found['of_a_new_cell'].mean():.2f} "
        f"(a factor {found['factor'].median():.3g}); its rate costs {costs.median():.2g} nats "
        f"(median), {costs.quantile(0.9):.2g} (nine tenths), {costs.max():.2g} at most; beyond the "
        f"rates tried in {found['cost'].isna().sum()}"
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
