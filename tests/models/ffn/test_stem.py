"""STEM against its equation written out, and through the commands."""

import pytest
import torch
import torch.nn.functional as F

from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.transformer import TransformerConfig
from tests.models.ffn.reference import assert_same, tokens_of

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

    class Told(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = layer

        def forward(self, x):
            return layer(x, tokens_of(ids))

    assert_same(Told(), lambda x: written_out(layer, x, ids), x)


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


@torch.no_grad()
def test_a_token_reads_its_own_row_alone():
    layer, x = made(), torch.randn(1, 4, D)
    y = layer(x, tokens_of(torch.tensor([[1, 2, 1, 3]])))
    layer.values[1] += 1
    changed = layer(x, tokens_of(torch.tensor([[1, 2, 1, 3]]))) != y
    assert changed.any(-1).tolist() == [[True, False, True, False]]


def test_it_learns_what_follows_a_token_by_its_row_alone():
    """Each token says the next one; rows are trained, and all else is as it was."""
    torch.manual_seed(0)
    sizes = {"d_model": 16, "d_head": 8, "vocab_size": 16, "seq_len": 32, "tie_head": False}
    model = TransformerConfig(**sizes, ffns=(StemConfig(vocab_size=16), DenseConfig())).build()
    model.requires_grad_(False)
    values = model.blocks[0].ffn.values.requires_grad_()
    optimizer = torch.optim.Adam([values], lr=0.1)
    tokens, losses = torch.arange(16)[:, None], []
    follows = torch.randperm(16)
    for _ in range(60):
        loss = F.cross_entropy(model(tokens)[:, 0], follows)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
