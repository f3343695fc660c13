"""Arithmetic, by hand and against the paper's grid."""

import pytest

from experiments.budget.costs import Cost, Term, trunk_cost
from experiments.models.attention.gqa import GQAConfig
from experiments.models.blocks import assign_ffns
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig

PAPER_SIZES = {  # budget: blocks of the dense models (He 2024, Fig. 1, recovered)
    6e18: (4, 5, 6, 7, 8, 9, 10, 11, 12, 13),
    2e19: (7, 8, 9, 10, 11, 12, 13, 14, 16, 18),
}


def paper_dense(n_layers):
    return trunk_cost(
        d_model=128 * n_layers,
        vocab_size=32_000,
        tie_head=True,
        ffns=(DenseConfig(),) * n_layers,
        attention=GQAConfig().terms(128 * n_layers, 128, 2048),
    )


@pytest.mark.parametrize("n_layers", sorted({n for sizes in PAPER_SIZES.values() for n in sizes}))
def test_dense_sizes_are_the_papers_within_one_percent(n_layers):
    """A least-squares fit to the 20 points of Fig. 1: P = 12.009 L d² + 32,524 d, d = 128 L."""
    d = 128 * n_layers
    assert paper_dense(n_layers).n_params == pytest.approx(
        12.009 * n_layers * d**2 + 32_524 * d, rel=0.01
    )


@pytest.mark.parametrize(("n_layers", "n_params"), [(10, 238e6), (13, 487e6)])
def test_the_two_sizes_read_off_the_figure_itself(n_layers, n_params):
    assert paper_dense(n_layers).n_params == pytest.approx(n_params, rel=0.01)


def test_peer_less_dense_is_the_expert_tables():
    """PEER's 6e18 optimum (L=7) is 1.97 B parameters in Fig. 1, read to half a percent."""
    ffns = assign_ffns(PEERConfig(), DenseConfig(), "middle", 7)
    attention = GQAConfig().terms(896, 128, 2048)
    cost = trunk_cost(d_model=896, vocab_size=32_000, tie_head=True, ffns=ffns, attention=attention)
    assert cost.n_params == pytest.approx(1.97e9, rel=0.01)


def test_every_term_of_a_small_model_by_hand():
    d, seq, vocab, n_layers = 8, 15, 100, 2
    cost = trunk_cost(
        d_model=d,
        vocab_size=vocab,
        tie_head=False,
        ffns=(DenseConfig(), NoneConfig()),
        attention=GQAConfig().terms(d, d, seq),
    )
    flops = {t.name: t.flops for t in cost.terms if t.flops}
    assert flops == {
        "attention.projections": n_layers * 4 * 2 * d * d,  # q, k, v, out
        "attention.context": n_layers * 2 * 2 * d * 8,  # 8 positions on average, twice
        "ffn.dense": 2 * 2 * d * 4 * d,
        "head": 2 * d * vocab,
    }
    assert cost.training_flops == 3 * sum(flops.values())
    params = 2 * vocab * d + n_layers * 4 * d * d + 5 * d + 8 * d * d
    assert cost.n_params == cost.n_active_params == params
    assert cost.n_non_embedding_params == params - 2 * vocab * d
    assert sum(cost.shares().values()) == pytest.approx(1.0)
    assert next(iter(cost.shares())) == "head"


def test_layers_of_one_kind_and_two_sizes_are_added_up():
    """Two dense widths, and PEER of two sizes, against the modules' tensors and a count by hand."""
    d, seq, vocab = 16, 31, 100
    peers = [
        PEERConfig(n_experts=n, n_heads=2, top_k=4, d_key=8, query_norm="none") for n in (64, 256)
    ]
    ffns = (DenseConfig(width_factor=2.0), DenseConfig(width_factor=4.0), *peers)
    config = TransformerConfig(
        d_model=d, d_head=8, vocab_size=vocab, seq_len=seq, tie_head=False, ffns=ffns
    )
    cost = config.cost()
    terms = {t.name: t for t in cost.terms}
    assert cost.n_params == sum(p.numel() for p in config.build().parameters())
    assert terms["ffn.dense"].n_params == 2 * d * (2 * d + 4 * d)
    assert terms["ffn.dense"].flops == 2 * terms["ffn.dense"].n_params
    assert terms["ffn.keys"].n_params == (8 + 16) * 8  # sub-keys of d_key / 2, two sets
    assert terms["ffn.keys"].flops == 2 * 2 * (8 + 16) * 8  # two heads, a multiply-add each
    tables = [t for t in cost.terms if t.n_tables]
    assert sum(t.n_tables for t in tables) == 4  # w_down and w_up of both
    assert sum(t.n_params for t in tables) == 2 * d * (64 + 256)
    retrieved = 2 * (2 * 4)  # heads x top_k of both layers
    inactive = sum(t.n_params - (t.n_active_params or 0) for t in tables)
    assert inactive == 2 * d * (64 + 256 - retrieved)
    assert cost.n_active_params == cost.n_params - inactive


def test_six_n_d_is_not_the_count_where_head_and_context_weigh():
    """Why plan does not use 6ND: at this size it is off by a third."""
    cost = trunk_cost(
        d_model=64,
        vocab_size=2048,
        tie_head=False,
        ffns=(DenseConfig(),) * 2,
        attention=GQAConfig().terms(64, 16, 256),
    )
    assert cost.training_flops / (6 * cost.n_params) < 0.75


def test_active_parameters_count_only_what_is_read():
    cost = Cost((Term(name="a", n_params=10), Term(name="b", n_params=100, n_active_params=3)))
    assert (cost.n_params, cost.n_active_params) == (110, 13)
