"""A mixture from a dense layer: exact where its gates sum to 1 over whole copies."""

import pytest
import torch

from experiments.init.upcycle import upcycle
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig

D = 16


def start(reinit=0.0, glu=False, **options):
    """A dense layer, the mixture made of it, and inputs, all float64."""
    ffn = DenseConfig(glu=glu, activation="silu").build(D).double()
    layer = MoEConfig(**{"glu": glu, "activation": "silu", **options}).build(D).double()
    upcycle(layer, ffn, reinit=reinit, generator=torch.Generator().manual_seed(0))
    return ffn, layer, torch.randn(2, 32, D, dtype=torch.float64)


@torch.no_grad()
def relative_error(ffn, layer, x):
    expected = ffn(x)
    return float((layer(x) - expected).norm() / expected.norm())


TOKEN = {"routing": "token_choice"}


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
@pytest.mark.parametrize(
    "options",
    [
        {"n_experts": 8, "top_k": 2},
        {"n_experts": 8, "top_k": 8},
        {"n_experts": 16, "top_k": 4, "granularity": 4.0},
        {"n_experts": 16, "top_k": 8, "granularity": 4.0},
        {"n_experts": 14, "top_k": 7, "granularity": 8.0, "n_shared_experts": 1},
    ],
)
def test_exact_where_the_gates_sum_to_one_over_whole_copies(options, gate, glu):
    ffn, layer, x = start(gate=gate, glu=glu, **TOKEN, **options)
    assert relative_error(ffn, layer, x) < 1e-12
    with torch.no_grad():  # whatever the router says
        layer.router.weight *= 1000
    assert relative_error(ffn, layer, x) < 1e-12


def test_exact_for_expert_choice_where_every_expert_takes_every_token():
    for options in ({"n_experts": 4}, {"n_experts": 8, "granularity": 4.0}):
        ffn, layer, x = start(capacity_factor=float(options["n_experts"]), **options)
        assert relative_error(ffn, layer, x) < 1e-12


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_one_expert_a_token_is_near_and_exact_for_a_router_of_zero(gate):
    ffn, layer, x = start(gate=gate, n_experts=8, top_k=1, **TOKEN)
    assert 1e-6 < relative_error(ffn, layer, x) < 0.05
    with torch.no_grad():
        layer.router.weight.zero_()
    assert relative_error(ffn, layer, x) < 1e-12


def test_expert_choice_is_right_on_average():
    ffn, layer, _ = start(n_experts=4, capacity_factor=2.0, gate="sigmoid")
    x = torch.randn(1, 4096, D, dtype=torch.float64)
    with torch.no_grad():
        taken = layer(x) / ffn(x)  # how many copies a token got, over two
    assert taken.median(-1).values.mean() == pytest.approx(1.0, abs=0.05)
    assert taken.median(-1).values.unique().numel() > 2


def test_reinit_renews_that_share_of_each_expert_and_no_other():
    ffn, layer, _ = start(reinit=0.25, glu=True, n_experts=4, top_k=2, **TOKEN)
    d_ff = 4 * D
    renewed = []
    for e in range(4):
        kept = (layer.w_in[e] == ffn.w_in.weight.t()).all(0)
        assert torch.equal(kept, (layer.w_gate[e] == ffn.w_gate.weight.t()).all(0))
        assert torch.equal(kept, (layer.w_out[e] == ffn.w_out.weight.t()).all(1))
        assert int(kept.sum()) == d_ff * 3 // 4
        renewed.append(layer.w_in[e][:, ~kept])
    assert not torch.equal(renewed[0], renewed[1])
    together = torch.cat(renewed)
    assert together.std().item() == pytest.approx(ffn.w_in.weight.std().item(), rel=0.1)


def test_reinit_of_nothing_is_exact_and_of_all_is_not():
    assert relative_error(*start(reinit=0.0, n_experts=4, top_k=2, **TOKEN)) < 1e-12
    half = relative_error(*start(reinit=0.5, n_experts=4, top_k=2, **TOKEN))
    whole = relative_error(*start(reinit=1.0, n_experts=4, top_k=2, **TOKEN))
    assert 0.2 < half < whole


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"glu": True}, "glu=true, but the dense layer is not gated: give glu=false"),
        ({"activation": "gelu"}, "activation=gelu is not the dense layer's"),
        ({"width_factor": 3.0}, "experts of 48 hidden units can't share out .* 64"),
        ({"granularity": 4.0, "top_k": 2}, "top_k=2 must be a multiple of 4"),
        ({"granularity": 3.2, "top_k": 4}, "n_experts=8 must be a multiple of 3|can't share out"),
        ({"n_experts": 9, "granularity": 4.0, "top_k": 4}, "multiple of 4.*nearest: 8, 12"),
        ({"n_shared_experts": 1}, "n_shared_experts=1 are the whole dense layer"),
    ],
)
def test_refuses_by_name(options, message):
    ffn = DenseConfig(activation="silu").build(D)
    config = MoEConfig(**{"n_experts": 8, "activation": "silu", "top_k": 2, **TOKEN, **options})
    with pytest.raises(ValueError, match=message):
        upcycle(config.build(D), ffn, reinit=0.0, generator=torch.Generator())


def test_refuses_another_width():
    ffn = DenseConfig(activation="silu").build(D)
    wide = MoEConfig(n_experts=4, activation="silu").build(2 * D)
    with pytest.raises(ValueError, match="width 32 can't hold a dense layer of width 16"):
        upcycle(wide, ffn, reinit=0.0, generator=torch.Generator())
