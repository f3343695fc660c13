"""Bytes sent, counted by hand; tests/training/test_table_columns.py holds them to what is sent."""

import math

import pytest

from experiments.budget.communication import (
    Links,
    adding_up,
    calls_for_columns,
    piece_size,
    sent_by_ddp,
    sent_by_replicas,
    sent_for_columns,
)
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.omni import OmniConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
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


def test_bytes_of_narrow_rows():
    config = PeerNarrowConfig(**KEYS, d_value=16)
    sent = sent_for_columns([config.cost(D)], d_model=D, n_tokens=TOKENS, n_ranks=2, clipped=False)
    assert sent == {
        "all-gather": 4 * 3 * PAIRS,
        "all-to-all": 4 * 2 * PAIRS + 4 * 4 * TOKENS * 16 // 2,
    }  # fmt: skip


def test_bytes_of_replicas():
    """Two tables of 64 rows, of 8 columns each; and where balanced routing has 10 tokens."""
    blocks = [PEERConfig(**KEYS).cost(D), DenseConfig().cost(D)]
    given = {"d_model": D, "n_tokens": TOKENS, "n_ranks": 4}
    assert sent_by_replicas(blocks, **given, n_replicas=1, by_rows=False) == ({}, {})
    sent, calls = sent_by_replicas(blocks, **given, n_replicas=3, by_rows=False)
    assert set(sent.values()) == {2 * 4 * 171 * 2}  # 512 numbers in thirds
    assert set(calls.values()) == {2}
    assert set(sent) == {"all-gather of replicas", "all-to-all of replicas"}
    n_read = round(64 * (1 - math.exp(-10 * 8 / 64)))
    sent, calls = sent_by_replicas(blocks, **given, n_replicas=2, by_rows=True)
    assert set(sent.values()) == {2 * (64 // 2 + 4 * n_read * 8 // 2)}
    assert set(calls.values()) == {4}


def test_replicas_add_up_piece_by_piece():
    assert adding_up(0, 2) == (0, 0)
    assert adding_up(7, 2) == (4 * 4, 1)
    assert piece_size(3) % 3 == 0
    assert adding_up(2 * piece_size(3) + 4, 3, 8) == (8 * 2 * (2 * piece_size(3) // 3 + 2), 3)


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
    # groups of 4 stay on their nodes, and of 4 replicas 2 are on one
    both = {key + end: n for key, n in sent.items() for end in ("", " of replicas")}
    also = {key + end: n for key, n in calls.items() for end in ("", " of replicas")}
    assert links.seconds_of_columns(both, also, 4, 4) == pytest.approx(
        (0.5 + 0.25 + 30 * 30e-6) + (2 + 2 / 3 + 70 * 30e-6)
    )
    assert links.seconds_of_columns(both, also, 4, 2) == pytest.approx(2 * (0.75 + 30 * 30e-6))
    assert links.seconds_of_ddp(10**9, 8) == 0.5
    assert links.seconds_of_ddp(10**9, 16) == 2
