"""Sgatlin against its equations written out, one token, channel and pair at a time."""

import copy

import pytest
import torch

from experiments.kernels.ops import Execution
from experiments.models.ffn.sgatlin import SgatlinConfig
from tests.kernels.implementations import triton
from tests.models.ffn.reference import assert_same

D = 12
SMALL = {"n_experts": 64, "n_channels": 4, "top_k": 3, "d_key": 6}
FLOAT32 = 1e-5  # relative; sums of at most 12 addends of a few roundings each


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


def equations(layer, x):
    """z = W_d x; of a channel s_ab = A_a z + B_b z of all pairs, the k best; the sum over channels
    of act(s * w_down x) w_up. In the layer's own type.
    """
    n_channels, (n_first, n_second) = layer.n_channels, layer.config.key_sets
    tokens = x.reshape(-1, x.shape[-1])
    out = []
    for token in tokens:
        z, total = layer.query.weight @ token, torch.zeros_like(token)
        for c in range(n_channels):
            keys = layer.sub_keys[c].reshape(n_first + n_second, -1)
            scores, rows = [], []
            for a in range(n_first):
                for b in range(n_second):
                    scores.append(keys[a] @ z + keys[n_first + b] @ z)
                    rows.append((a * n_channels + c) * n_second + b)
            best = torch.stack(scores).topk(layer.top_k)
            for s, i in zip(best.values, best.indices, strict=True):
                hidden = layer.activation(s * (layer.w_down[rows[i]] @ token))
                total = total + hidden * layer.w_up[rows[i]]
        out.append(total)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"activation": "gelu"},
        {"activation": "relu", "value_init": "zero"},
        {"n_first_keys": 8},
        {"n_first_keys": 2, "top_k": 1},
        {"n_channels": 1},
        {"top_k": 16},
        {"n_channels": 16, "top_k": 4},
    ],
)
def test_output_and_gradients_are_those_of_the_equations(options):
    layer = SgatlinConfig(**{**SMALL, **options}).build(D).double()
    with torch.no_grad():
        layer.w_up.normal_()
    x = torch.randn(2, 4, D, dtype=torch.float64)
    assert_same(layer, lambda x: equations(layer, x), x)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_triton_s_kernel_is_near_float64(dtype):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    triton(device)
    layer = SgatlinConfig(**SMALL, activation="gelu", table_dtype=dtype).build(D).to(device)
    exact = copy.deepcopy(layer).double()  # of the same rows
    layer.execution = Execution(kernel="triton")
    x = torch.randn(2, 2, D, device=device)
    wanted = equations(exact, x.double())
    y = layer(x)
    assert relative(y.double(), wanted) < FLOAT32
    y.square().sum().backward()
    wanted.square().sum().backward()
    theirs = dict(exact.named_parameters())
    for name, parameter in layer.named_parameters():
        bound = 2**-8 if parameter.dtype == torch.bfloat16 else 4 * FLOAT32  # rounded at the end
        assert relative(parameter.grad.double(), theirs[name].grad) < bound, name


def test_channels_have_tensors_and_experts_of_their_own():
    layer = SgatlinConfig(**SMALL).build(D)
    assert layer.query.weight.shape == (6, D)
    assert layer.sub_keys.shape == (4, 2, 4, 6)
    assert layer.w_down.shape == layer.w_up.shape == (64, D)
    indices, scores = layer.route(torch.randn(50, D))
    assert indices.shape == scores.shape == (50, 4 * 3)
    channels = torch.arange(4).repeat_interleave(3)
    assert (indices // 4 % 4 == channels).all()  # rows are (a, c, b)
    assert all(len(row.unique()) == 12 for row in indices)
    assert SgatlinConfig(**SMALL, n_first_keys=8).build(D).sub_keys.shape == (4, 8 + 2, 6)


def test_a_start_follows_from_the_seed_and_sums_are_of_the_size_of_a_row():
    made = []
    for _ in range(2):
        torch.manual_seed(3)
        made.append(SgatlinConfig(**{**SMALL, "n_experts": 4096}).build(64))
    assert all(map(torch.equal, made[0].parameters(), made[1].parameters()))
    down, up = (float(t.detach().std()) for t in (made[0].w_down, made[0].w_up))
    # of 262,144 numbers: known to 0.2 %
    assert down == pytest.approx(64**-0.5, rel=0.01)
    assert up == pytest.approx((64 * 4 * 3) ** -0.5, rel=0.01)
    assert not SgatlinConfig(**SMALL, value_init="zero").build(D).w_up.any()


def test_defaults_and_costs_are_the_papers():
    """C 16, k 8, d_key 128; router FLOPs 2 d_key d + 4 C sqrt(N_c) d_key, at N_c = 256**2."""
    config, d = SgatlinConfig(), 1024
    assert (config.n_channels, config.top_k, config.d_key) == (16, 8, 128)
    assert config.activation == "identity"
    terms = {term.name: term for term in config.cost(d).terms}
    assert terms["query"].flops + terms["keys"].flops == 2 * 128 * d + 4 * 16 * 256 * 128
    assert terms["pairs"].flops == 16 * 8**2
    assert terms["experts"].flops == 4 * 16 * 8 * d
    cost = config.cost(d)
    assert cost.n_params == 2 * 1024**2 * d + 128 * d + 16 * 2 * 256 * 128
    assert cost.n_active_params == 2 * 16 * 8 * d + 128 * d + 16 * 2 * 256 * 128
