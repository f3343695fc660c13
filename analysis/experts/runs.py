"""Runs that laws in experts are fitted to: one model's, and what their size N is."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import pandas as pd

from analysis.fitting.checks import check_sparsity, positive
from analysis.fitting.intervals import Array
from analysis.laws.forms import OF_EXPERTS
from analysis.laws.law import COLUMNS as COLUMNS_OF
from analysis.laws.law import Variables
from analysis.settings import setting
from analysis.table.apart import rows_apart
from analysis.table.budgets import own_budget
from analysis.table.layer import plain_name, setting_names, shown, varying
from analysis.table.load import COLUMNS, finished, require

BACKBONE = "backbone_params"
_TOTALS = ("n_params", "n_non_embedding_params")
_TOKENS = 2.0  # a law without a term for tokens bears this factor between them


@dataclass(frozen=True, kw_only=True)
class ExpertRuns:
    """cells: a row for the best run of each; N is their column size_name; see choose_runs. merged:
    what runs of several kinds these are, and which were merged.
    """

    cells: pd.DataFrame
    merged: tuple[str, ...]
    model: str
    baseline: str | None
    size_name: str

    def only(self, keep: pd.Series) -> Self:
        return replace(self, cells=self.cells[keep])

    def given(self, form: str) -> Variables:
        return make_variables(self.cells, form, self.size_name)

    @property
    def loss(self) -> Array:
        """nats/token."""
        return self.cells["loss"].to_numpy(dtype=np.float64)

    @property
    def note(self) -> str:
        """Warning for a law without a term for tokens; empty if there is none."""
        tokens = self.cells["n_tokens"]
        if tokens.notna().all():
            ratio = tokens.max() / tokens.min()
            mixed = "this law has no term for them, so what it says of N mixes size with tokens"
            return f"n_tokens vary {ratio:.3g}-fold: {mixed}" if ratio > _TOKENS else ""
        n = self.cells["budget"].nunique()
        apart = "this law has no term for tokens; fit each apart"
        return f"runs of {n} budgets: {apart}" if n > 1 else ""


def choose_runs(
    table: pd.DataFrame,
    forms: Sequence[str],
    *,
    model: str | None,
    baseline: str | None,
    size: str,
    by: Sequence[str] = (),
) -> ExpertRuns:
    """Same runs for all these forms: of each cell the best that is finished.

    A cell is a combination of what any of the forms has a term for, budget (or n_tokens), seed and
    `by`. Raises ValueError for a form, model or size that is not there, and for runs that one of
    the forms does not distinguish.
    """
    for form in forms:
        if form not in OF_EXPERTS:
            raise ValueError(f"form={form!r} is not one of {', '.join(OF_EXPERTS)}")
        _check_size(size, form)
    model = _the_model(finished(table), model, baseline)
    rows = find_rows(table, model, baseline)
    _refuse_variants(rows, model, forms)
    for form in forms:
        needs = [size, *OF_EXPERTS[form].needs]
        if "granularity" in needs and "granularity" not in table:
            needs = ["n_heads", "top_k", *needs]
        if "sparsity" in needs and "sparsity" not in rows:
            needs = ["top_k", "n_experts", *needs]
        require(rows, needs, f"form={form}")
    # Without a budget, n_tokens: else the longest run of each size would stand for all
    training = own_budget(rows) if rows["budget"].notna().any() else "n_tokens"
    terms = [name for form in forms for name in OF_EXPERTS[form].needs]
    known = [name for name in (training, "seed", *by) if rows[name].notna().any()]
    rows_of_law = rows_apart(rows, list(dict.fromkeys([size, *terms, *known])))
    return ExpertRuns(
        cells=rows_of_law.cells,
        merged=rows_of_law.warnings,
        model=model,
        baseline=baseline,
        size_name=size,
    )


def split_variants(done: pd.DataFrame, model: str) -> dict[str, pd.DataFrame]:
    """Model's runs with several numbers of experts, apart by what varies besides in its layer.

    Their names are the model's and what differs between them. All of its runs together where none
    has several.
    """
    own = done[done["model"] == model]
    columns = [name for name in varying(own) if name != "n_experts"]
    parts = [part for _, part in own.groupby(columns, dropna=False)] if columns else [own]
    several = [part for part in parts if part["n_experts"].nunique() > 1]
    if not several and own["n_experts"].nunique() > 1:
        return {model: own}
    firsts = own.loc[[part.index[0] for part in several]]
    settings = setting_names(firsts, but=["n_experts"])
    names = [f"{model} {text}".strip() for text in settings]
    return dict(zip(names, several, strict=True))


def find_rows(table: pd.DataFrame, model: str, baseline: str | None) -> pd.DataFrame:
    """Finished runs of a model, then the baseline's as of one expert, with their BACKBONE.

    granularity, where the table does not give it, is n_heads top_k: with experts of one neuron it
    is the number of active ones (He 2024, arXiv:2407.04153, §2). sparsity, likewise, is
    1 - n_heads top_k / n_experts, one head where none are named, and 0 of one expert: the share of
    experts that are not active, as in Abnar 2025 (arXiv:2501.12370).
    """
    done = finished(table)
    rows = done[done["model"] == model]
    if baseline is not None:
        dense = done[done["model"] == baseline].assign(n_experts=1)
        rows = pd.concat([rows, dense], ignore_index=True)
    if "granularity" not in rows and {"n_heads", "top_k"} <= set(rows):
        rows = rows.assign(granularity=rows["n_heads"] * rows["top_k"])
    if (
        "sparsity" not in rows
        and {"top_k", "n_experts"} <= set(rows)
        and rows["top_k"].notna().any()
    ):
        rows = rows.assign(sparsity=_sparsity(rows))
    return rows.assign(**{BACKBONE: backbone_params(rows)}).reset_index(drop=True)


def _sparsity(rows: pd.DataFrame) -> pd.Series:
    heads, top_k, experts = (
        rows[name].astype("float64") if name in rows else pd.Series(np.nan, index=rows.index)
        for name in ("n_heads", "top_k", "n_experts")
    )
    return (1 - heads.fillna(1.0) * top_k / experts).mask(experts == 1, 0.0)


def make_variables(rows: pd.DataFrame, form: str, size: str) -> Variables:
    """Their N, and of E, D, G and S what the form is in.

    Raises ValueError if one of them is unknown or not above 0, or a sparsity not below 1.
    """
    given = {
        letter: check_sparsity(rows[name]) if letter == "S" else positive(name, rows[name])
        for letter, name in COLUMNS_OF.items()
        if letter in OF_EXPERTS[form].variables
    }
    return Variables.of(positive(size, rows[size]), **given)


def backbone_params(table: pd.DataFrame) -> pd.Series:
    """Parameters of each run's model without its experts, as far as the table says.

    n_active_params of the run with the fewest experts of the same n_layers and d_model: PEER's
    active parameters grow with its experts, by the keys that find them. Plain n_active_params where
    the shape is not known, or is not all there is to a size: at equal numbers of experts too it has
    several n_active_params, e.g. by its d_ff, vocabulary or heads.
    """
    active = table["n_active_params"]
    if not {"n_layers", "d_model", "n_experts"} <= set(table):
        return active
    shape = [table[name] for name in ("model", "n_layers", "d_model")]
    known = table["n_layers"].notna() & table["d_model"].notna()
    sizes = active.groupby([*shape, table["n_experts"]], dropna=False).transform("nunique")
    alike = sizes.groupby(shape, dropna=False).transform("max") == 1
    return active.where(~(known & alike), active.groupby(shape, dropna=False).transform("min"))


def _check_size(size: str, form: str) -> None:
    without = f"{BACKBONE}, n_active_params or a column of the table's own"
    if size in _TOTALS and "n_experts" in OF_EXPERTS[form].needs:
        raise ValueError(
            f"{setting('size', size)} counts the experts and grows with them; "
            f"{setting('form', form)} is in the size without them: {without}"
        )
    if size in COLUMNS and size not in ("n_active_params", *_TOTALS):
        raise ValueError(f"{setting('size', size)} is not a size of models; choose {without}")


def _the_model(done: pd.DataFrame, model: str | None, baseline: str | None) -> str:
    for name in (model, baseline):
        if name is not None and name not in set(done["model"]):
            have = ", ".join(sorted(done["model"].unique()))
            raise ValueError(f"no finished run of {setting('model', name)}; the table has {have}")
    if model is not None:
        return model
    with_experts = set(done.loc[done["n_experts"].notna(), "model"]) - {baseline}
    if len(with_experts) != 1:
        have = ", ".join(sorted(with_experts)) or "none"
        raise ValueError(
            f"models with experts: {have}; choose one with {setting('model', 'MODEL')}"
        )
    return with_experts.pop()


def _refuse_variants(rows: pd.DataFrame, model: str, forms: Sequence[str]) -> None:
    """Raises ValueError for runs that differ by more than a form has terms for.

    Heads and top_k are part of a granularity and of a sparsity.
    """
    own = rows[rows["model"] == model]
    several = [name for name in varying(own) if name != "n_experts"]
    mixed: dict[str, list[str]] = {}
    blind = []
    for form in forms:
        needs = {"granularity", "sparsity"} & set(OF_EXPERTS[form].needs)
        with_terms = {"n_heads", "top_k"} if needs else set()
        found = [name for name in several if name not in with_terms]
        if found:
            blind.append(form)
            mixed |= {
                plain_name(name): sorted({text or "unknown" for text in shown(own[name])})
                for name in found
            }
    if mixed:
        raise ValueError(
            f"{model} has runs of several {' and '.join(mixed)} ({mixed}): {', '.join(blind)} "
            "can't distinguish them; keep one of each: --where, or rows of the table"
        )
