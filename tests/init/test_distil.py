"""A layer learns what it replaces; what is counted, repeated and refused."""

import pytest
import torch

from experiments.init.distil import distil
from experiments.init.neurons import read_neurons, seed_replace
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig

D = 16
CONFIG = PEERConfig(
    n_experts=64,
    n_heads=4,
    top_k=2,
    d_key=24,
    query_norm="layer",
    share_keys=False,
    activation="silu",
    glu=True,
)


def example(n_tokens=2000):
    generator = torch.Generator().manual_seed(0)
    ffn = DenseConfig(activation="silu", glu=True).build(D)
    layer = CONFIG.build(D)
    seed_replace(layer, read_neurons(ffn), generator=generator)
    kinds = torch.randn(4, D, generator=generator)  # of tokens, as text has them
    kind = torch.randint(4, (n_tokens,), generator=generator)
    x = kinds[kind] + 0.3 * torch.randn(n_tokens, D, generator=generator)
    with torch.no_grad():
        return layer, x, ffn(x)


def run(layer, x, y, **options):
    options = {"lr": 1e-3, "n_steps": 100, "batch_tokens": 128, **options}
    generator = torch.Generator().manual_seed(0)
    return distil(layer, x, y, cost=CONFIG.cost(D), generator=generator, **options)


def test_the_error_falls_well_below_the_start_and_below_no_ffn():
    layer, x, y = example()
    held_out = x[1800:], y[1800:]

    def error():
        with torch.no_grad():
            off = layer(held_out[0]) - held_out[1]
        return float(off.square().sum() / (held_out[1] - held_out[1].mean(0)).square().sum())

    before = error()
    result = run(layer, x, y)
    assert result.error_before == pytest.approx(before, rel=1e-4)
    assert result.error_after == pytest.approx(error(), rel=1e-4)
    assert result.error_after < 0.3 * before < 0.3  # 1 is the error of no layer but a mean
    assert result.n_tokens == 100 * 128
    forward = CONFIG.cost(D).forward_flops
    assert result.flops == forward * (3 * 100 * 128 + 2 * 200)


def test_the_same_generator_gives_the_same_layer():
    results = []
    for _ in range(2):
        torch.manual_seed(0)
        layer, x, y = example(400)
        run(layer, x, y, n_steps=5)
        results.append([p.clone() for p in layer.parameters()])
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


def test_what_is_held_out_is_never_trained_on():
    results = []
    for spoilt in (False, True):
        torch.manual_seed(0)
        layer, x, y = example(400)
        if spoilt:
            y[360:] += torch.randn(40, D)
        run(layer, x, y, n_steps=5)
        results.append(layer.w_up.detach().clone())
    assert torch.equal(*results)


def test_frozen_parts_stay_and_the_mode_too():
    layer, x, y = example(400)
    layer.w_down.requires_grad_(False)
    before = layer.w_down.clone()
    layer.eval()
    run(layer, x, y, n_steps=4)
    assert torch.equal(layer.w_down, before)
    assert not layer.training


def test_refuses_what_does_not_belong_together():
    layer, x, y = example(100)
    with pytest.raises(ValueError, match=r"inputs \(100, 16\) and targets \(99, 16\)"):
        run(layer, x, y[1:])
    with pytest.raises(ValueError, match="the targets do not vary"):
        run(layer, x, torch.ones_like(y), batch_tokens=10)
    with pytest.raises(ValueError, match="less than one batch of batch_tokens=128"):
        run(layer, x, y)
