"""Bytes of a step, against the same counted by hand."""

from dataclasses import replace

import pytest

from experiments.budget.costs import Cost, Term
from experiments.budget.traffic import step_bytes
from experiments.models.ffn.peer import PEERConfig


def moved(cost, *, table_gradient="dense", table_ranks=1, **given):
    """With AdamW's moments of all that steps as a whole."""
    moments = 8 * cost.n_trained_params // table_ranks if table_gradient == "dense" else 0
    how = {"n_micro": 1, "table_dtype": "float32", "table_ranks": table_ranks, **given}
    return step_bytes(cost, moments=moments, table_gradient=table_gradient, **how)


def test_rows_of_tables_are_read_in_each_pass():
    """Paper's batch, 8 heads of 16 experts, d_model 1024: 137 GB a table and pass."""
    cost = PEERConfig(n_experts=1024**2, n_heads=8, top_k=16, d_key=128).cost(1024)
    tables = Cost(tuple(term for term in cost.terms if term.n_tables))
    n_tokens = 128 * 2048
    table = n_tokens * 8 * 16 * 1024 * 4
    assert table == pytest.approx(137e9, rel=0.01)
    found = moved(tables, n_tokens=n_tokens, table_gradient="fused")
    assert found == 2 * 3 * table  # two tables; forward, and two passes backward
    halved = {"table_gradient": "rows", "table_dtype": "bfloat16"}
    assert moved(tables, n_tokens=n_tokens, **halved) == found / 2
    stepped = 28 * 2 * 1024**2 * 1024  # bytes: AdamW's, of all rows
    assert moved(tables, n_tokens=n_tokens) == found + stepped
    assert moved(tables, n_tokens=n_tokens, table_ranks=8) == found + stepped / 8
    frozen = Cost(tuple(term.frozen(1) for term in tables.terms))
    assert moved(frozen, n_tokens=n_tokens) == found / 3


def test_adamw_moves_28_bytes_a_parameter_and_a_micro_batch_12_more():
    cost = Cost((Term(name="dense", n_params=1000),))
    assert moved(cost, n_tokens=10) == 28_000
    assert moved(cost, n_tokens=10, n_micro=4) == 28_000 + 3 * 12_000
    half = Cost((replace(cost.terms[0], n_trained_params=500),))
    assert moved(half, n_tokens=10) == 14_000
