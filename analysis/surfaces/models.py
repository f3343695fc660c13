"""Surfaces of a table's models: which runs they are of, each model apart."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from analysis.fitting.intervals import Array
from analysis.fitting.status import FitError
from analysis.laws.forms import SURFACES
from analysis.laws.law import COLUMNS
from analysis.settings import setting
from analysis.surfaces.compare import SurfaceComparison, compare_surfaces
from analysis.table.apart import Rows, rows_apart
from analysis.table.budgets import own_budget
from analysis.table.load import best_of_cells, finished
from analysis.table.trunks import shared_trunk
from analysis.table.warned import warnings_of_table


def cells_of_models(
    table: pd.DataFrame, x: str, model: str | None, cluster: str | None = None
) -> dict[str, pd.DataFrame]:
    """Best runs of each series, or of the one named: of each size x and budget.

    Where no budget is known, of each size and token count; with a cluster, of each value of that
    column too. Raises ValueError for a model that has no finished run.
    """
    of_models = _runs_of_models(table, x, model, cluster)
    return {series: best_of_cells(runs, by=by) for series, (runs, by) in of_models.items()}


def rows_of_models(
    table: pd.DataFrame,
    x: str,
    model: str | None,
    forms: Sequence[str] = tuple(SURFACES),
    cluster: str | None = None,
) -> dict[str, Rows]:
    """Same, with nothing merged that one of the forms has a term for, nor runs of another kind."""
    letters = {letter for form in forms for letter in SURFACES[form].variables}
    variables = [name for letter, name in COLUMNS.items() if letter in letters and letter != "D"]
    of_models = _runs_of_models(table, x, model, cluster)
    return {series: rows_apart(runs, by, variables) for series, (runs, by) in of_models.items()}


def _runs_of_models(
    table: pd.DataFrame, x: str, model: str | None, cluster: str | None
) -> dict[str, tuple[pd.DataFrame, list[str]]]:
    """Runs of each series, and the columns whose values are a cell."""
    done = finished(table)
    have = list(dict.fromkeys(done["series"]))
    if model not in (None, *have):
        raise ValueError(
            f"{setting('model', model)} has no finished run; the table has {', '.join(have)}"
        )
    found = {}
    for series in [model] if model else have:
        runs = done[done["series"] == series]
        keys = [own_budget(runs), x] if runs["budget"].notna().any() else [x, "n_tokens"]
        found[series] = runs, [*keys, *([cluster] if cluster else [])]
    return found


def unique_tokens(cells: pd.DataFrame) -> Array:
    """How many of each run's tokens are unique, by its passes over the data; infinite where that is
    not known or where none was repeated.
    """
    epochs = cells["epochs"].to_numpy(dtype=np.float64, na_value=np.nan)
    tokens = cells["n_tokens"].to_numpy(dtype=np.float64)
    return np.where(epochs > 1, tokens / np.maximum(epochs, 1), np.inf)


def compare_surfaces_of_models(
    table: pd.DataFrame, x: str, model: str | None, *, cluster: str | None = None, **how: Any
) -> tuple[dict[str, SurfaceComparison], list[str]]:
    """compare_surfaces of each model's best runs, and why others have none; how: its arguments.

    cluster: the column whose values are the groups; by default the trunk, where one is shared.
    Raises FitError if no model has one.
    """
    found, errors = {}, []
    cluster = cluster or shared_trunk(table)
    forms = how.get("forms", tuple(SURFACES))
    for series, (cells, merged) in rows_of_models(table, x, model, forms, cluster).items():
        try:
            groups = None if cluster is None else cells[cluster]
            columns = (cells[x], cells["n_tokens"], cells["loss"])
            unique = unique_tokens(cells)
            one = compare_surfaces(*columns, n_unique=unique, groups=groups, **how)
            told = warnings_of_table(table, by_cell=False)
            found[series] = one.with_warnings((*told, *merged))
        except ValueError as error:
            errors.append(f"{series}: {error}")
    if not found:
        raise FitError(f"no model could be fitted: {'; '.join(errors)}")
    return found, errors
