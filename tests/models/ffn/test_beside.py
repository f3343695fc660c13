"""A layer beside a block's own from the first step: counted, added, trained, and not grown."""

import pytest
import torch

from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.models.ffn.lives import assert_text_goes_on_as_without_a_cache, by_the_command, child_of

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
