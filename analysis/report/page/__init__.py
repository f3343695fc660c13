"""One self-contained HTML page of text, tables and drawings: no network, no other file.

table = DataTable(frame=curves, caption="Minima", units={"loss_opt": "nats/token"})
section = Section(title="Minima", blocks=[Text(text="Three budgets."), table])
page = Page(title="Demo", sections=[section], commands=["make demo"], generated="today")
write(page, "results/demo/report.html")
"""

from analysis.report.page.blocks import (
    Block,
    Cause,
    Checklist,
    Code,
    DataTable,
    Drawing,
    Page,
    Section,
    Text,
    Warning,
    Warnings,
)
from analysis.report.page.markup import render, write

__all__ = [
    "Block",
    "Cause",
    "Checklist",
    "Code",
    "DataTable",
    "Drawing",
    "Page",
    "Section",
    "Text",
    "Warning",
    "Warnings",
    "render",
    "write",
]
