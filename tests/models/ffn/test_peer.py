"""PEER against Algorithm 1 written out, one token, head and expert at a time."""

import pytest
import torch
import torch.nn.functional as F

from experiments.kernels.ops import Execution
from experiments.models.ffn.peer import PEERConfig
from tests.models.ffn.reference import assert_same, peer_written_out, with_random_norm

D_MODEL = 12


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"share_keys": False},
        {"query_norm": "none"},
        {"query_norm": "layer"},
        {"score": "sigmoid"},
        {"score": "relu"},
        {"glu": True, "activation": "silu"},
        {"activation": "identity"},
        {"top_k": 1},
        {"n_experts": 9, "top_k": 9},
    ],
)
def test_output_and_gradients_are_algorithm_1s(options):
    config = PEERConfig(**{"n_experts": 25, "n_heads": 2, "top_k": 4, "d_key": 6, **options})
    layer = with_random_norm(config.build(D_MODEL).double())
    x = torch.randn(2, 5, D_MODEL, dtype=torch.float64)
    assert_same(layer, lambda x: peer_written_out(layer, x), x)


@pytest.mark.parametrize(
    ("query_norm", "shape"), [("none", None), ("layer", (6,)), ("batch", (2 * 6,))]
)
def test_the_query_norm_has_the_weights_of_its_kind(query_norm, shape):
    config = PEERConfig(n_experts=25, n_heads=2, top_k=4, d_key=6, query_norm=query_norm)
    found = [tuple(p.shape) for p in config.build(D_MODEL).query_norm.parameters()]
    assert found == ([] if shape is None else [shape, shape])


def test_autocast_does_not_reach_the_scores():
    """In bfloat16 their order, so the experts chosen, would be another."""
    layer = PEERConfig(n_experts=1024, n_heads=2, top_k=8, d_key=16, query_norm="none").build(64)
    layer.execution = Execution(kernel="reference")
    x = torch.randn(64, 64)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        indices, gates = layer.route(x)
        queries = layer.query(x).float().view(64, 2, 2, 8)  # in bfloat16, as autocast has it
    with torch.no_grad():
        scores = torch.einsum("thsd,skd->thsk", queries, layer.sub_keys)
        pairs = (scores[:, :, 0, :, None] + scores[:, :, 1, None, :]).flatten(2)
        best = pairs.topk(8)
    assert gates.dtype == torch.float32
    torch.testing.assert_close(gates, best.values.softmax(-1).flatten(1), rtol=1e-5, atol=1e-6)
    assert torch.equal(indices, best.indices.flatten(1))


def test_float32_stays_near_float64():
    layer = PEERConfig(n_experts=1024, n_heads=4, top_k=8, d_key=16).build(64).eval()
    x = torch.randn(4, 32, 64)
    with torch.no_grad():
        single, double = layer(x), layer.double()(x.double())
    assert (single.double() - double).abs().max() < 1e-5 * double.abs().max()


def test_one_expert_a_head_is_an_mlp_of_h_neurons():
    """Eq. 8: with k=1 the softmax is 1, and y = V act(W x) over the h retrieved neurons."""
    n_heads = 6
    layer = PEERConfig(n_experts=49, n_heads=n_heads, top_k=1, d_key=8).build(D_MODEL).eval()
    x = torch.randn(1, 1, D_MODEL)
    indices, gates = layer.route(x.flatten(0, 1))
    assert torch.equal(gates, torch.ones(1, n_heads))
    w, v = layer.w_down[indices[0]], layer.w_up[indices[0]]
    torch.testing.assert_close(layer(x).flatten(), F.gelu(x.flatten() @ w.t()) @ v)


def test_tensors_have_the_shapes_the_docs_say():
    layer = PEERConfig(n_experts=64, n_heads=4, top_k=2, d_key=10).build(D_MODEL)
    assert layer.query.weight.shape == (4 * 10, D_MODEL)
    assert layer.sub_keys.shape == (2, 8, 5)
    assert layer.w_down.shape == layer.w_up.shape == (64, D_MODEL)
    layer = PEERConfig(n_experts=64, n_heads=4, top_k=2, d_key=10, share_keys=False).build(D_MODEL)
    assert layer.sub_keys.shape == (4, 2, 8, 5)


def test_defaults_are_the_papers():
    config = PEERConfig()
    assert (config.n_experts, config.n_heads, config.top_k) == (1024**2, 8, 16)
    assert config.query_norm == "batch"
    assert config.share_keys


def test_costs_of_the_papers_layer():
    """d=1024, N=1024², h=8, k=16, d_key=256, by the formulas of the paper's sizes."""
    d, h, k, d_key, n = 1024, 8, 16, 256, 1024**2
    cost = PEERConfig().cost(d)
    assert cost.n_params == 2 * n * d + d * h * d_key + 1024 * d_key + 2 * h * d_key
    assert cost.forward_flops == 2 * d * h * d_key + 2 * h * 1024 * d_key + h * k**2 + 4 * h * k * d
    active = 2 * h * k * d + d * h * d_key + 1024 * d_key + 2 * h * d_key
    assert cost.n_active_params == active
