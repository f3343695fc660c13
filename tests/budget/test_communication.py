"""Bytes sent, counted by hand; tests/training/test_table_columns.py holds them to what is sent."""

import pytest

from experiments.budget.communication import (
    Links,
    calls_for_columns,
    sent_by_ddp,
    sent_for_columns,
)
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.ultramem import UltraMemConfig

D, TOKENS, PAIRS, RANKS = 32, 10, 10 * 2 * 4, 4
KEYS = {"n_experts": 64, "n_heads": 2, "top_k": 4, "d_key": 8}


@pytest.mark.parametrize(
    ("config", "n_gathered", "n_summed", "n_wide"),
    [
        # indices, weights, gradients of products; products, gradients of weights; x, dx, y, dy
        (PEERConfig(**KEYS), 3, 2, 4),
        (PEERConfig(**KEYS, glu=True), 4, 3, 4),
        (PKMConfig(**KEYS), 2, 1, 2),
        (MemoryPlusConfig(**KEYS), 2, 1, 2),
        (UltraMemConfig(**KEYS), 2, 1, 2),
        (OmniConfig(n_experts=64, top_k=8), 3, 2, 4),
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

    assert calls_for_columns([config.cost(D)] * 2, n_passes=3, clipped=clipped) == {
        "all-gather": 2 * 3 * n_gathered + clipped,
        "all-to-all": 2 * 3 * (n_summed + n_wide),
    }


def test_what_ddp_sends_leaves_tables_out():
    cost = PEERConfig(**KEYS).cost(D)
    without = cost.n_params - 2 * 64 * D
    assert sent_by_ddp(cost, 4, tables=True) == 2 * 4 * cost.n_params * 3 // 4
    assert sent_by_ddp(cost, 4, tables=False) == 2 * 4 * without * 3 // 4


def test_seconds_by_hand():
    """Of 8 cards in a node, and of 16 in two."""
    links = Links(
        node_exchange=4e9, node_ring=2e9, network_exchange=1e9, network_ring=5e8, n_node=8
    )
    sent, calls = {"all-gather": 10**9, "all-to-all": 10**9}, {"all-gather": 10, "all-to-all": 20}
    assert links.seconds_of_columns(sent, calls, 8) == pytest.approx(0.5 + 0.25 + 30 * 30e-6)
    assert links.seconds_of_columns(sent, calls, 16) == pytest.approx(2 + 8 / 15 + 70 * 30e-6)
    assert links.seconds_of_ddp(10**9, 8) == 0.5
    assert links.seconds_of_ddp(10**9, 16) == 2
