"""Sgatlin against its equations written out, one token, channel and pair at a time."""

import copy
import os
from dataclasses import replace

import pytest
import torch

from experiments.init import grow
from experiments.init.growth.product_keys import GROWER
from experiments.kernels.ops import Execution
from experiments.models.ffn._base import Late
from experiments.models.ffn.sgatlin import SgatlinConfig
from experiments.training.evaluation import metered
from tests.models.ffn.reference import assert_same

if not torch.cuda.is_available():  # read when triton is imported
    os.environ.setdefault("TRITON_INTERPRET", "1")

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


@pytest.mark.parametrize("kernel", ["reference", "torch", "cpp", "triton"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kernel_is_near_float64(kernel, dtype):
    device = "cuda" if torch.cuda.is_available() and kernel != "cpp" else "cpu"
    if kernel == "triton":
        pytest.importorskip("triton")
        from experiments.kernels.triton_kernel import why_not

        if (reason := why_not(device)) is not None:
            pytest.skip(reason)
    layer = SgatlinConfig(**SMALL, activation="gelu", table_dtype=dtype).build(D).to(device)
    exact = copy.deepcopy(layer).double()  # of the same rows
    layer.execution = Execution(kernel=kernel)
    x = torch.randn(3, 5, D, device=device)
    wanted = equations(exact, x.double())
    y = layer(x)
    assert relative(y.double(), wanted) < FLOAT32
    y.square().sum().backward()
    wanted.square().sum().backward()
    theirs = dict(exact.named_parameters())
    for name, parameter in layer.named_parameters():
        bound = 2**-8 if parameter.dtype == torch.bfloat16 else 4 * FLOAT32  # rounded at the end
        assert relative(parameter.grad.double(), theirs[name].grad) < bound, name


@pytest.mark.parametrize("kernel", ["torch", "cpp"])
def test_gradients_of_rows_are_the_dense_ones(kernel):
    dense, x = SgatlinConfig(**SMALL).build(D), torch.randn(3, 5, D)
    rows = copy.deepcopy(dense)
    dense.execution = Execution(kernel=kernel)
    rows.execution = Execution(kernel=kernel, gradient="rows")
    for layer in (dense, rows):
        layer(x).square().sum().backward()
    for name in ("w_down", "w_up"):
        found, wanted = getattr(rows, name).grad, getattr(dense, name).grad
        assert found.is_sparse
        assert torch.equal(found.to_dense(), wanted)


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


def test_the_size_of_a_score_is_recorded_as_use():
    layer = SgatlinConfig(**SMALL).build(D).eval()
    x = torch.randn(2, 10, D)
    _, scores = layer.route(x.flatten(0, 1))
    with torch.no_grad():
        layer.sub_keys.neg_()  # so that many scores are below 0
        _, scores = layer.route(x.flatten(0, 1))
    with metered([layer]) as (meter,), torch.no_grad():
        layer(x)
    assert float(meter.weight.sum()) == pytest.approx(float(scores.detach().abs().sum()), rel=1e-5)


def test_autocast_does_not_reach_the_scores():
    layer = SgatlinConfig(**SMALL).build(D)
    x = torch.randn(64, D)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        indices, scores = layer.route(x)
        z = layer.query(x).float()  # in bfloat16, as autocast has it
    with torch.no_grad():
        halves = torch.einsum("td,cpsd->tcps", z, layer.sub_keys)
        best = (halves[:, :, 0, :, None] + halves[:, :, 1, None, :]).flatten(2).topk(3)
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores, best.values.flatten(1), rtol=1e-5, atol=1e-6)
    assert indices.shape == (64, 12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_experts": 1000}, "n_experts=1000 must be 16 times a perfect square; nearest: 784, "),
        ({"n_experts": 9}, "n_experts=9 must be 16 times a perfect square; nearest: 16$"),
        ({"n_experts": 256, "n_first_keys": 5}, "a multiple of 16 times n_first_keys=5"),
        ({"n_experts": 64}, "top_k=8 must be at most n_experts=64, 4 for each of 16"),
        ({"activation": "tanh"}, "activation='tanh' is not one of gelu"),
        ({"n_channels": 0}, "n_channels=0 must be at least 1"),
        ({"d_key": 0}, "d_key=0 must be at least 1"),
        ({"value_init": "one"}, "value_init='one' is not one of normal, zero"),
        ({"table_dtype": "int8"}, "table_dtype='int8' is not one of float32, bfloat16"),
    ],
)
def test_refuses_what_it_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        SgatlinConfig(**options)


LAYERS = {"identity": {}, "gelu": {"activation": "gelu"}}


@pytest.fixture(params=LAYERS)
def layer(request):
    return SgatlinConfig(**SMALL, **LAYERS[request.param]).build(D)


@pytest.mark.parametrize(("how", "bound"), [("bias", 0), ("copies", 2e-6), ("beside", 0)])
def test_it_grows_to_the_same_function(layer, how, bound):
    """Allowance for copies: sums of float32 in another order."""
    grown, x = grow(layer, 64 * 4, how=how), torch.randn(2, 32, D)
    assert relative(grown(x), layer(x)) <= bound
    grown_again = grow(grown, 64 * 8, how="copies") if how == "copies" else None
    if grown_again is not None:
        assert relative(grown_again(x), layer(x)) < 2 * bound


def test_old_experts_keep_their_numbers_and_channels_get_as_many(layer):
    grown, x = grow(layer, 64 * 4), torch.randn(50, D)
    assert grown.config.key_sets == (16, 4)
    for name in ("w_down", "w_up"):
        assert torch.equal(getattr(grown, name)[:64], getattr(layer, name))
    assert not grown.w_up[64:].any()
    assert grown.w_down[64:].norm(dim=1).min() > 0.1
    assert torch.equal(grown.route(x)[0], layer.route(x)[0])
    depth = GROWER.late_depth(grown, x)
    grown.late = Late(n_old=4, bias=torch.tensor(-depth - 1e-4))
    assert torch.equal(grown.route(x)[0], layer.route(x)[0])
    grown.late = Late(n_old=4, bias=torch.tensor(-depth + 1e-2))
    assert (grown.route(x)[0] >= 64).any()
    grown.late = None
    exact = copy.deepcopy(grown).double()
    torch.testing.assert_close(exact(x.double()), equations(exact, x.double()))


@pytest.mark.parametrize(
    ("n_experts", "how", "why"),
    [
        (100, "bias", "n_experts=100 must be a multiple of 16, the experts of a sub-key"),
        (100, "copies", "n_experts=100 must be a multiple of 64"),
        (64 + 16, "beside", "80 leaves 16 for the layer beside.*top_k=5; give n_experts=96"),
    ],
)
def test_numbers_that_it_can_not_grow_to(n_experts, how, why):
    layer = replace(SgatlinConfig(**SMALL), top_k=5).build(D)
    with pytest.raises(ValueError, match=why):
        grow(layer, n_experts, how=how)
