"""Two gloo ranks that compile their trunk train what they train without."""

import pytest
from test_ddp import KEYS, STEPS, _train

from experiments.point import make_point
from tests.conftest import TINY

MODELS = {
    "dense": ("model=dense",),
    "peer": ("model=peer", *KEYS),  # whose batch norm talks between ranks, outside of the graphs
    "moe_fine": ("model=moe_fine", "n_experts=16", "model.top_k=2"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_the_same_loss_curve(tmp_path, cache, compose_raw, name):
    overrides = MODELS[name]
    plan = make_point(compose_raw("size=2", "budget=1e9", *TINY, *overrides)).plan
    budget = f"budget={STEPS * plan.batch_tokens * plan.cost.training_flops}"
    eager, _ = _train(tmp_path / "eager", cache, (*overrides, budget), 2)
    compiled = (*overrides, budget, "trainer.compile=true")
    found, record = _train(tmp_path / "compiled", cache, compiled, 2)
    assert record["compile_seconds"] > 0
    # as between one rank and two (test_ddp.py): sums of float32 in another order
    assert found[:5] == pytest.approx(eager[:5], rel=1e-6)
    assert found == pytest.approx(eager, rel=1e-4)
