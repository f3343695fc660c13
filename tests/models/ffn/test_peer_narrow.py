"""PEER between two maps, written out; against PEER of PyPI in the narrow width; and tiny runs."""

from dataclasses import replace

import pytest
import torch

from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.models.ffn.lives import assert_text_goes_on_as_without_a_cache, by_the_command, child_of

D, SMALL = 12, {"n_experts": 25, "n_heads": 2, "top_k": 4, "d_key": 6, "d_value": 5}


def test_costs_by_hand():
    """d=1024 and the paper's 192: N=1024², one head of 32, d_key=256."""
    d, w, k, q, n = 1024, 192, 32, 256, 1024**2
    cost = PeerNarrowConfig().cost(d)
    routing = d * q + 1024 * q + 2 * q
    assert cost.n_params == routing + 2 * d * w + 2 * n * w
    assert cost.n_active_params == routing + 2 * d * w + 2 * k * w
    assert cost.forward_flops == 2 * d * q + 2 * 1024 * q + k**2 + 4 * d * w + 4 * k * w
    tables = [term for term in cost.terms if term.n_tables]
    assert [(t.n_tables, t.d_row, t.n_params) for t in tables] == [(2, w, 2 * n * w)]


def test_tables_have_rows_of_their_own_width():
    layer = PeerNarrowConfig(n_experts=1024, d_value=16, d_key=8).build(64)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes["w_in.weight"] == (16, 64)
    assert shapes["w_out.weight"] == (64, 16)
    assert shapes["w_down"] == shapes["w_up"] == (1024, 16)
    zero = replace(layer.config, value_init="zero").build(64)
    assert not zero.w_up.any()
    assert not zero(torch.randn(1, 3, 64)).any()


BESIDE = ("trunk.beside=true", "trunk.ffn_blocks=all")


def test_beside_a_block_s_own_layer_from_the_first_step(compose_raw):
    def point(*words):
        small = ("n_experts=64", "model.top_k=4", "model.d_key=8", "model.d_value=8")
        return make_point(compose_raw("model=peer_narrow", "size=2", "budget=2e9", *TINY, *small,
                                      *words))  # fmt: skip

    both, alone = point(*BESIDE), point("trunk.ffn_blocks=all")
    dense, config = both.config.trunk.base_ffn, both.config.model
    d_model = both.transformer.d_model
    added = 2 * dense.cost(d_model).n_params
    assert both.plan.cost.n_params == alone.plan.cost.n_params + added
    model = both.transformer.build()
    assert sum(p.numel() for p in model.parameters()) == both.plan.cost.n_params
    pair, x = model.blocks[0].ffn, torch.randn(1, 4, d_model)
    assert torch.equal(pair(x), pair.ffn(x) + pair.layer(x))
    assert pair.layer.config == config
    assert pair.layer(x).any() == (config.value_init == "normal")
    assert point("trunk.beside=false", "trunk.ffn_blocks=all").run_id == alone.run_id != both.run_id


def test_a_run_beside_a_block_s_own_layer_learns_and_goes_on_but_does_not_grow(
    run, compose_raw, tmp_path
):
    small = ("model=peer_narrow", "n_experts=64", "model.top_k=4", "model.d_key=8")
    small += ("model.d_value=8", "model.query_norm=layer")
    run_dir, record = by_the_command(run, tmp_path, *small, *BESIDE)
    assert record.usage > 0
    assert_text_goes_on_as_without_a_cache(run_dir)
    after = child_of(compose_raw, run_dir, "init.how=keep", "init.train=all")
    assert after.before["validation"]["loss"] == record.val_loss
    with pytest.raises(ValueError, match="Beside"):
        child_of(compose_raw, run_dir, "n_experts=512", "init.how=bias", "init.train=all")
