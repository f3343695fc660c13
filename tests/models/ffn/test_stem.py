"""STEM against its equation written out, and through the commands."""

import pytest
import torch

from experiments.models.ffn.stem import StemConfig
from tests.models.ffn.reference import Told, assert_same, tokens_of

D, VOCABULARY = 12, 9


def made(**options):
    return StemConfig(**{"vocab_size": VOCABULARY, "width_factor": 1.5, **options}).build(D)


def written_out(layer, x, ids):
    """arXiv:2601.10639: y = W_down (silu(W_gate x) * E[token]), a token at a time."""
    act = {"silu": lambda z: z / (1 + (-z).exp()), "relu": lambda z: z.clamp(min=0)}
    out = []
    for token, i in zip(x.flatten(0, 1), ids.flatten().tolist(), strict=True):
        gate = act[layer.config.activation](layer.w_gate.weight @ token)
        out.append(layer.w_out.weight @ (gate * layer.values[i]))
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize("options", [{}, {"activation": "relu"}, {"width_factor": 4.0}])
def test_output_and_gradients_are_those_written_out(options):
    layer, x = made(**options).double(), torch.randn(2, 5, D, dtype=torch.float64)
    ids = torch.randint(0, VOCABULARY, (2, 5))
    assert_same(Told(layer, tokens_of(ids)), lambda x: written_out(layer, x, ids), x)


def test_rows_start_by_xaviers_rule():
    """As torch's xavier_normal_ of (vocabulary, d_ff), which counts both."""
    layer = StemConfig(vocab_size=3000, width_factor=8 / 3, value_init="xavier").build(30)
    assert layer.values.shape == (3000, 80)
    assert float(layer.values.detach().std()) == pytest.approx((2 / 3080) ** 0.5, rel=0.01)


def test_costs_by_hand():
    """d=1024, 4096 hidden units, 32,000 ids."""
    cost = StemConfig(vocab_size=32_000).cost(1024)
    assert cost.n_params == 2 * 1024 * 4096 + 32_000 * 4096
    assert cost.n_active_params == 2 * 1024 * 4096 + 4096
    assert cost.forward_flops == 4 * 1024 * 4096 + 2 * 4096
    assert [made(width_factor=2.6667).config.d_ff(d) for d in (1024, 1023)] == [2731, 2728]
