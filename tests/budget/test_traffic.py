"""Bytes of a step, against the same counted by hand."""

from dataclasses import replace

import pytest

from experiments.budget.costs import Cost, Term
from experiments.budget.memory import Memory
from experiments.budget.traffic import step_bytes
from experiments.models.ffn.peer import PEERConfig

NONE = Memory(weights=0, gradients=0, moments=0, activations=0, logits=0)


def test_rows_of_tables_are_read_in_each_pass():
    """The paper's batch, 8 heads of 16 experts, d_model 1024: 137 GB a table and pass."""
    cost = PEERConfig(n_experts=1024**2, n_heads=8, top_k=16, d_key=128).cost(1024)
    n_tokens = 128 * 2048
    table = n_tokens * 8 * 16 * 1024 * 4
    assert table == pytest.approx(137e9, rel=0.01)
    found = step_bytes(cost, NONE, n_tokens=n_tokens, table_dtype="float32")
    assert found == 2 * 3 * table  # two tables; forward, and two passes backward
    assert step_bytes(cost, NONE, n_tokens=n_tokens, table_dtype="bfloat16") == found / 2
    frozen = Cost(tuple(replace(term, passes=1) for term in cost.terms))
    assert step_bytes(frozen, NONE, n_tokens=n_tokens, table_dtype="float32") == found / 3


def test_a_dense_step_of_adamw_moves_28_bytes_a_parameter():
    cost = Cost((Term(name="dense", n_params=1000),))
    memory = replace(NONE, gradients=4000)
    assert step_bytes(cost, memory, n_tokens=10, table_dtype="float32") == 28_000
