"""Runs as one checked pandas table, whatever they come from."""

from analysis.table.load import best_of_cells, check_table, finished, load_table

__all__ = [
    "best_of_cells",
    "check_table",
    "finished",
    "load_table",
]
