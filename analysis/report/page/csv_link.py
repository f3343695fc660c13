"""A table of a page as a CSV that a link in the page holds: no script, and no second file.

The page's Content-Security-Policy has no directive for links. Browsers save a data: address with
the attribute `download`, and open none of them as a page.
"""

import base64

import pandas as pd

from analysis.fitting.intervals import Estimate
from analysis.report.page.blocks import DataTable
from experiments.system.csv_text import to_csv


def write_link(table: DataTable) -> str:
    """Frame at full precision: all columns, an Estimate as three, e.g. a, a_lower, a_upper."""
    columns: dict[str, list[object]] = {}
    for i, name in enumerate(map(str, table.frame.columns)):
        values = list(table.frame.iloc[:, i])
        columns[name] = [v.value if isinstance(v, Estimate) else v for v in values]
        if any(isinstance(v, Estimate) for v in values):
            for end in ("lower", "upper"):
                ends = [getattr(v, end) if isinstance(v, Estimate) else None for v in values]
                columns[f"{name}_{end}"] = ends
    return to_csv(pd.DataFrame(columns))


def csv_address(table: DataTable) -> str:
    """Same as a data: address."""
    text = base64.b64encode(write_link(table).encode("utf-8")).decode("ascii")
    return f"data:text/csv;charset=utf-8;base64,{text}"
