"""Bytes sent, counted by hand; tests/training/test_table_columns.py holds them to what is sent."""

import pytest

from experiments.budget.communication import sent_by_ddp, sent_for_columns
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig

D, TOKENS, PAIRS, RANKS = 32, 10, 10 * 2 * 4, 4
KEYS = {"n_experts": 64, "n_heads": 2, "top_k": 4, "d_key": 8}


@pytest.mark.parametrize(
    ("config", "n_gathered", "n_summed", "n_wide"),
    [
        # indices, weights, gradients of products; products, gradients of weights; x, dx, y, dy
        (PEERConfig(**KEYS), 3, 2, 4),
        (PEERConfig(**KEYS, glu=True), 4, 3, 4),
        (PKMConfig(**KEYS), 2, 1, 2),
        (DenseConfig(), 0, 0, 0),
    ],
)
@pytest.mark.parametrize("clipped", [False, True])
def test_bytes_of_columns(config, n_gathered, n_summed, n_wide, clipped):
    sent = sent_for_columns(
        [config.cost(D)] * 2, d_model=D, n_tokens=TOKENS, n_ranks=RANKS, clipped=clipped
    )
    others = RANKS - 1
    assert sent == {
        "all-gather": 2 * 4 * n_gathered * PAIRS * others + 4 * others * clipped,
        "all-to-all": 2 * (4 * n_summed * PAIRS * others + 4 * n_wide * TOKENS * D * 3 // 4),
    }


def test_what_ddp_sends_leaves_tables_out():
    cost = PEERConfig(**KEYS).cost(D)
    without = cost.n_params - 2 * 64 * D
    assert sent_by_ddp(cost, 4, tables=True) == 2 * 4 * cost.n_params * 3 // 4
    assert sent_by_ddp(cost, 4, tables=False) == 2 * 4 * without * 3 // 4
