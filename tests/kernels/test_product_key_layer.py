"""PEER and PKM as one operator each way: values and gradients, at each level of the processor."""

import copy

import pytest
import torch
from torch import nn

from experiments.kernels import product_key_layer
from experiments.kernels.build import BuildError, load
from experiments.kernels.cpp import Cpp, levels, load_cpp
from experiments.kernels.trunk_passes import TrunkKernel
from experiments.models.ffn.peer import PEER
from tests.kernels.implementations import Given
from tests.kernels.product_key_formulas import LATE, D, half_of_block, layer_of

FLOAT32 = 1e-5  # of the norm of what is compared
BFLOAT16 = 2**-8  # a gradient of a bfloat16 table
TIMES = 0.7


def _levels():
    try:
        return levels(load())
    except BuildError:
        return []


LEVELS = _levels()
pytestmark = pytest.mark.skipif(not LEVELS, reason="no C++ compiler")

RECTANGLE = {"n_first_keys": 8, "n_experts": 24}
CASES = {
    "peer": ("peer", {}),
    "pkm": ("pkm", {}),
    "a head": ("peer", {"n_heads": 1, "top_k": 1, "score": "sigmoid"}),
    "k of more than a vector": ("peer", {"top_k": 21}),
    "k of a vector": ("pkm", {"top_k": 16}),
    "narrow keys": ("peer", {"d_key": 8}),
    "odd keys": ("peer", {"d_key": 48, "n_heads": 3}),
    "wide keys": ("pkm", {"d_key": 272, "n_heads": 1}),
    "sigmoid": ("peer", {"score": "sigmoid", "top_k": 19}),
    "relu": ("pkm", {"score": "relu"}),
    "no norm": ("peer", {"query_norm": "none"}),
    "layer norm": ("peer", {"query_norm": "layer"}),
    "layer norm of odd keys": ("pkm", {"query_norm": "layer", "d_key": 6, "n_heads": 8}),
    "keys of heads": ("peer", {"share_keys": False}),
    "rectangle": ("peer", RECTANGLE),
    "rectangle of heads": ("pkm", {**RECTANGLE, "share_keys": False}),
    "late": ("peer", RECTANGLE),
    "out of reach": ("peer", {**RECTANGLE, "share_keys": False}),
    "glu": ("peer", {"glu": True}),
    "bfloat16 tables": ("peer", {"glu": True, "table_dtype": "bfloat16"}),
    "bfloat16 values": ("pkm", {"table_dtype": "bfloat16"}),
    "evaluation": ("peer", {}),
    "frozen": ("peer", {}),
    **{act: ("peer", {"activation": act}) for act in ("gelu_tanh", "relu", "silu", "identity")},
    **{f"glu {act}": ("peer", {"glu": True, "activation": act}) for act in ("silu", "gelu_tanh")},
}


@pytest.fixture(params=LEVELS)
def level(request, monkeypatch):
    """Operators run at this level."""
    return _at(request.param, monkeypatch)


def _at(level, monkeypatch):
    kernel = TrunkKernel(load(), level)
    monkeypatch.setattr(product_key_layer, "load_trunk", lambda: kernel)
    return Given(given=Cpp(load(), level))


def _case(name, execution=None, n_tokens=110):
    kind, fields = CASES[name]
    layer, norm = layer_of(kind, **fields), nn.RMSNorm(D)
    layer.late = LATE.get(name)
    layer.train(name != "evaluation")
    if name == "frozen":
        layer.query_norm.norm.frozen = True
    if execution is not None:
        layer.execution = execution
    with torch.no_grad():
        norm.weight.uniform_(0.5, 1.5)
    x = torch.randn(2, n_tokens // 2, D) if n_tokens > 1 else torch.randn(1, 1, D)
    return layer, norm, x.requires_grad_()


def _grads(layer, norm, x):
    own = {name: p.grad for name, p in layer.named_parameters()}
    return {**own, "norm": norm.weight.grad, "x": x.grad}


def _off(found, wanted):
    found, wanted = found.detach().double(), wanted.detach().double()
    return float((found - wanted).norm() / wanted.norm())


def _run(layer, norm, x):
    y = layer.fused_half(x, norm, TIMES)
    along = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    y.backward(along)
    return y.detach(), along


@pytest.mark.levels
@pytest.mark.parametrize("name", CASES)
def test_the_layer_is_its_formula(level, name):
    layer, norm, x = _case(name, level)
    assert layer.why_not_fused() is None
    y, along = _run(layer, norm, x)
    indices = layer.meter.indices
    wanted, scores, leaves = half_of_block(layer, norm, x, indices, TIMES)
    wanted.backward(along.double())
    assert _off(y, wanted) < FLOAT32
    for leaf, found in _grads(layer, norm, x).items():
        if leaf == "query_norm.norm.bias" and leaf not in leaves:
            continue
        half = found.dtype == torch.bfloat16
        assert _off(found, leaves[leaf].grad) < (BFLOAT16 if half else FLOAT32), leaf
    _check_choice(scores.detach(), indices.view(*scores.shape[:2], -1))


def _check_choice(scores, indices):
    """Each of a head's experts is among its best, but for what float32 can't tell apart."""
    picked = scores.gather(-1, indices)
    best = scores.topk(indices.shape[-1], dim=-1).values
    torch.testing.assert_close(picked.sort(-1, descending=True).values, best, rtol=0, atol=1e-4)
    assert (indices.sort(-1).values.diff(dim=-1) > 0).all()


@pytest.mark.parametrize("n_tokens", [1, 2, 96, 194, 400])
def test_any_number_of_tokens(level, n_tokens):
    layer, norm, x = _case("peer" if n_tokens > 1 else "no norm", level, n_tokens)
    y, along = _run(layer, norm, x)
    wanted, _, leaves = half_of_block(layer, norm, x, layer.meter.indices, TIMES)
    wanted.backward(along.double())
    assert _off(y, wanted) < FLOAT32
    if n_tokens > 2:  # of two tokens batch norm says only which is larger: there is no gradient
        for leaf, found in _grads(layer, norm, x).items():
            assert _off(found, leaves[leaf].grad) < FLOAT32, leaf


def test_one_token_has_no_statistics():
    layer, norm, x = _case("peer", n_tokens=1)
    with pytest.raises(ValueError, match="more than one token"):
        layer.fused_half(x, norm, TIMES)


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("name", ["peer", "pkm", "layer norm", "rectangle"])
def test_training_is_that_of_the_eager_layer(name, momentum):
    """Outputs, weights and running statistics, step after step, and what a meter is given."""
    layer, norm, _ = _case(name)
    eager, eager_norm = copy.deepcopy(layer), copy.deepcopy(norm)
    for one in (layer, eager):
        if isinstance(one.query_norm.norm, nn.BatchNorm1d):
            one.query_norm.norm.momentum = momentum
    optimizers = [
        torch.optim.SGD([*m.parameters(), n.weight], lr=0.1)
        for m, n in ((layer, norm), (eager, eager_norm))
    ]
    for step in range(4):
        torch.manual_seed(step)
        x = torch.randn(3, 20, D)
        ys = layer.fused_half(x, norm, TIMES), x + TIMES * eager(eager_norm(x))
        assert torch.equal(layer.meter.indices, eager.meter.indices)
        assert _off(layer.meter.gates, eager.meter.gates) < FLOAT32
        assert _off(*ys) < FLOAT32
        for y, optimizer in zip(ys, optimizers, strict=True):
            optimizer.zero_grad()
            y.square().mean().backward()
            optimizer.step()
    for (where, own), other in zip(
        layer.state_dict().items(), eager.state_dict().values(), strict=True
    ):
        assert _off(own, other) < FLOAT32, where


@pytest.mark.parametrize("name", ["peer", "glu", "pkm", "bfloat16 tables"])
def test_gradients_of_rows_and_steps_in_the_backward_pass(name):
    layer, norm, x = _case(name)
    _run(layer, norm, x)
    dense = _grads(layer, norm, x)
    layer, norm, x = _case(name, Given(given=load_cpp(), gradient="rows"))
    _run(layer, norm, x)
    for leaf, found in _grads(layer, norm, x).items():
        assert torch.equal(found.to_dense(), dense[leaf]), leaf

    seen = {}

    def update(kernel, table, values, segments, weights):
        seen[id(table)] = kernel.table_sums(values, segments, weights, table.dtype)
        table.data.zero_()  # after all that reads it

    how = Given(given=load_cpp(), update=update)
    layer, norm, x = _case(name, how)
    _run(layer, norm, x)
    for leaf, parameter in layer.named_parameters():
        if id(parameter) in seen:
            assert parameter.grad is None
        found = seen.get(id(parameter), parameter.grad)
        assert torch.equal(found, dense[leaf]), leaf
    assert torch.equal(x.grad, dense["x"])


@pytest.mark.parametrize("name", ["peer", "pkm", "glu", "keys of heads"])
def test_frozen_parts_get_no_gradient_and_change_no_other(name):
    layer, norm, x = _case(name)
    _run(layer, norm, x)
    wanted = _grads(layer, norm, x)
    for frozen in [n for n, _ in layer.named_parameters()]:
        layer, norm, x = _case(name)
        dict(layer.named_parameters())[frozen].requires_grad_(False)
        _run(layer, norm, x)
        for leaf, found in _grads(layer, norm, x).items():
            assert found is None if leaf == frozen else torch.equal(found, wanted[leaf]), leaf


def test_products_of_queries_round_under_autocast(level):
    """bfloat16 operands: near the float32 layer, and not it."""
    layer, norm, x = _case("identity", level)
    y, _ = _run(layer, norm, x)
    wanted, grad = layer.meter.gates, x.grad
    layer, norm, x = _case("identity", level)
    with torch.autocast("cpu", torch.bfloat16):
        half, _ = _run(layer, norm, x)
    assert half.dtype == torch.float32
    assert 1e-5 < _off(layer.meter.gates, wanted) < 0.1
    assert _off(half, y) < 0.2
    assert _off(x.grad, grad) < 0.2


class _Other(PEER):
    """A layer of somebody's."""


def test_what_is_not_fused_is_named(monkeypatch):
    def why(change, name="peer"):
        layer, _, _ = _case(name)
        change(layer)
        return layer.why_not_fused()

    def linear(layer):
        layer.query = nn.Linear(D, 32)

    def other(layer):
        layer.__class__ = _Other

    def narrow(layer):
        layer.query = nn.Linear(D, 24, bias=False)

    assert "plain linear" in why(linear)
    assert why(other) == "_Other has no fused form"
    assert "= 24 is no multiple of 16" in why(narrow)
    assert "kernel=torch reads" in why(
        lambda m: setattr(m, "execution", type(m.execution)(kernel="torch"))
    )
    assert "kernel=reference" in why(
        lambda m: setattr(m, "execution", type(m.execution)(kernel="reference"))
    )
    assert "hook" in why(lambda m: m.query_norm.norm.register_forward_hook(print))
    assert "float64" in why(lambda m: m.double())
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    assert "all ranks" in why(lambda m: None)
    assert why(lambda m: None, "layer norm") is None
