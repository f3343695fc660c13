"""OmniMoE against its equations written out, one token and expert at a time."""

import pytest
import torch
import torch.nn.functional as F

from experiments.models.ffn.omni import OmniConfig
from tests.models.ffn.reference import assert_same

D_MODEL = 12


def equations(layer, x):
    """Shi 2026, arXiv:2602.05711, in training: all N gates, of which the best are summed."""
    tokens, side = x.reshape(-1, x.shape[-1]), layer.side
    scores = tokens @ layer.router.t()
    if layer.config.router_norm != "none":
        centred = scores - scores.mean(0)
        scores = centred / (centred.square().mean(0) + 1e-5).sqrt()
    if layer.config.router_norm == "batch":
        scores = scores * layer.router_norm.weight + layer.router_norm.bias
    out = []
    for token, score in zip(tokens, scores, strict=True):
        rows, columns = score[:side].exp(), score[side:].exp()
        gates = torch.outer(rows / rows.sum(), columns / columns.sum()).flatten()
        shared = layer.mlp
        total = shared.w_out(F.silu(shared.w_gate(token)) * shared.w_in(token))
        for i in gates.topk(layer.config.top_k).indices:
            hidden = layer.activation(layer.w_down[i] @ token)
            total = total + gates[i] * hidden * layer.w_up[i]
        out.append(total)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"router_norm": "none"},
        {"router_norm": "batch_plain"},
        {"activation": "gelu"},
        {"top_k": 1},
        {"n_experts": 9, "top_k": 9},  # more than rows or columns
        {"shared_width_factor": 0.5},
    ],
)
def test_output_and_gradients_are_the_equations(options):
    config = OmniConfig(**{"n_experts": 25, "top_k": 4, **options})
    layer = config.build(D_MODEL).double()
    for parameter in layer.router_norm.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    x = torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    assert_same(layer, lambda x: equations(layer, x), x)


def test_the_gates_of_all_experts_add_up_to_one():
    layer = OmniConfig(n_experts=36, top_k=36).build(D_MODEL)
    _, gates = layer.route(torch.randn(7, D_MODEL))
    torch.testing.assert_close(gates.sum(-1), torch.ones(7))


def test_costs_by_hand():
    """d=1024: N=1024², 128 of them, an MLP of 2048 units, two times 1024 keys with a norm."""
    cost, shared = OmniConfig().cost(1024), 3 * 1024 * 2048
    assert cost.n_params == shared + 2 * 1024 * 1024 + 2 * 2048 + 2 * 1024**2 * 1024
    assert cost.n_active_params == shared + 2 * 1024 * 1024 + 2 * 2048 + 2 * 128 * 1024
    assert cost.forward_flops == 2 * shared + 4 * 1024 * 1024 + 128**2 + 4 * 128 * 1024
