"""Experts from the hidden units of a dense layer: beside it, and in its place."""

from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.init.how import find_how
from experiments.init.neurons import read_neurons, seed_copies, seed_replace
from experiments.models.ffn._base import MLP
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig

D = 16
OWN_LINES = {"share_keys": False, "query_norm": "layer", "d_key": 16}


def generator():
    return torch.Generator().manual_seed(1)


def dense(glu, activation="gelu", factor=4.0):
    config = DenseConfig(width_factor=factor, glu=glu, activation=activation)
    return config.build(D).double()


def peer(ffn, **options):
    options = {"n_heads": 1, "query_norm": "none", "d_key": 16, **options}
    glu, activation = ffn.w_gate is not None, read_neurons(ffn).activation
    config = PEERConfig(**{"glu": glu, "activation": activation, **options})
    return config.build(D).double()


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("activation", ["gelu", "relu", "silu", "identity"])
def test_the_sum_over_neurons_is_the_dense_layer(glu, activation):
    ffn = dense(glu, activation)
    neurons = read_neurons(ffn)
    assert neurons.activation == activation
    x = torch.randn(5, D, dtype=torch.float64)
    expected = torch.zeros_like(x)
    for t, token in enumerate(x):
        for i in range(len(neurons)):
            hidden = neurons.w_down[i] @ token
            if neurons.w_gate is None:
                hidden = ffn.activation(hidden)
            else:
                hidden = ffn.activation(neurons.w_gate[i] @ token) * hidden
            expected[t] += hidden * neurons.w_up[i]
    torch.testing.assert_close(ffn(x), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize(
    "options", [{"n_heads": 2, "query_norm": "batch"}, {"n_heads": 4, **OWN_LINES}]
)
def test_copies_give_exactly_zero_and_live_directions(glu, options):
    ffn = dense(glu)
    layer = peer(ffn, n_experts=144, top_k=4, **options)
    seed_copies(layer, read_neurons(ffn), noise=0.1, generator=generator())
    x = torch.randn(2, 9, D, dtype=torch.float64)
    for mode in (True, False):
        layer.train(mode)
        assert torch.equal(layer(x), torch.zeros_like(x))
        assert torch.equal(ffn(x) + layer(x), ffn(x))
    layer(x).sum().backward()
    reached = layer.w_up.grad.abs().sum(1) > 0
    assert reached.sum() > 10


def test_copies_are_the_neurons_in_turn_the_first_round_exact():
    ffn = dense(glu=True)  # 64 hidden units
    layer = peer(ffn, n_experts=144, top_k=4)
    seed_copies(layer, read_neurons(ffn), noise=0.1, generator=generator())
    distance = torch.cdist(layer.w_down, read_neurons(ffn).w_down)
    copied = torch.bincount(distance.argmin(1), minlength=64)
    assert copied.tolist() == [3] * 16 + [2] * 48
    exact = distance.min(1).values < 1e-6
    assert exact.sum() == 64
    assert len(distance[exact].argmin(1).unique()) == 64
    rms = read_neurons(ffn).w_down.square().mean().sqrt()
    added = distance[~exact].min(1).values.square().mean().div(D).sqrt()
    assert added.item() == pytest.approx(0.1 * rms.item(), rel=0.1)
    same = torch.cdist(layer.w_gate, read_neurons(ffn).w_gate).argmin(1)
    assert torch.equal(same, distance.argmin(1))  # gate and factor of one neuron stay together


def test_copies_of_fewer_experts_than_neurons():
    ffn = dense(glu=False)
    layer = peer(ffn, n_experts=25, top_k=4)
    seed_copies(layer, read_neurons(ffn), noise=0.1, generator=generator())
    assert (torch.cdist(layer.w_down, read_neurons(ffn).w_down).min(1).values < 1e-6).all()


def all_at_unit_gate(layer):
    """Queries of zero: scores of a head are equal, and it retrieves what its keys allow."""
    with torch.no_grad():
        layer.query.weight.zero_()
    return layer


@pytest.mark.parametrize("score", ["softmax", "sigmoid"])
@pytest.mark.parametrize("glu", [False, True])
@pytest.mark.parametrize("n_experts", [64, 100])
@pytest.mark.parametrize("n_heads", [1, 2])
def test_replace_is_the_dense_layer_where_all_neurons_are_retrieved(score, glu, n_experts, n_heads):
    ffn = dense(glu, "silu")
    options = {"n_heads": n_heads, **OWN_LINES} if n_heads > 1 else {}
    layer = peer(ffn, n_experts=n_experts, top_k=n_experts // n_heads, score=score, **options)
    seed_replace(layer, read_neurons(ffn), generator=generator())
    x = torch.randn(1, 7, D, dtype=torch.float64)
    y, expected = all_at_unit_gate(layer)(x), ffn(x)
    assert (y - expected).norm() / expected.norm() < 1e-12
    single = layer.float()(x.float())
    assert (single - expected).norm() / expected.norm() < 1e-6


def test_heads_with_own_lines_never_retrieve_the_same_expert():
    ffn = dense(glu=True)
    layer = peer(ffn, n_experts=81, n_heads=4, top_k=8, **OWN_LINES)
    seed_replace(layer, read_neurons(ffn), generator=generator())
    indices, _ = layer.route(torch.randn(200, D, dtype=torch.float64))
    assert all(len(row.unique()) == 32 for row in indices)


def test_a_head_of_one_line_retrieves_the_neurons_of_the_largest_gates():
    """One line a head: each expert has a score, its gate times the size of what it writes."""
    ffn = dense(glu=True, activation="silu")
    neurons = read_neurons(ffn)  # 64: eight heads with a line of eight
    layer = peer(ffn, n_experts=64, n_heads=8, top_k=2, **{**OWN_LINES, "d_key": 32})
    seed_replace(layer, neurons, generator=generator())
    x = torch.randn(50, D, dtype=torch.float64)
    indices, _ = layer.route(x)
    sizes = layer.w_up.norm(dim=1)
    for t, token in enumerate(x):
        scores = (layer.w_gate @ token) * sizes
        for head in range(8):
            line = scores[8 * head : 8 * head + 8]
            best = set((line.topk(2).indices + 8 * head).tolist())
            assert set(indices[t, 2 * head : 2 * head + 2].tolist()) == best


def test_retrieval_beats_chance_where_keys_are_shared():
    ffn = dense(glu=False, activation="relu")
    layer = peer(ffn, n_experts=64, top_k=16)
    seed_replace(layer, read_neurons(ffn), generator=generator())
    x = torch.randn(500, D, dtype=torch.float64)
    indices, _ = layer.route(x)
    scores = (x @ layer.w_down.t()) * layer.w_up.norm(dim=1)
    assert scores.gather(1, indices).mean() > 0.5 * scores.std() > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"glu": False}, "glu=false, but the FFN's hidden units are gated: give glu=true"),
        ({"activation": "gelu"}, "activation=gelu is not the FFN's: give activation=silu"),
        ({"n_experts": 49}, "n_experts=49 is too few .* 64 hidden units.* n_experts=64"),
        ({"n_heads": 2, "query_norm": "layer"}, "n_heads=2 would retrieve the same experts"),
        ({"query_norm": "batch"}, "query_norm=batch has statistics of text"),
        ({"score": "relu"}, "score=relu has no gate at a score of 0"),
    ],
)
def test_replace_refuses_by_name(options, message):
    ffn = dense(glu=True, activation="silu")
    layer = peer(ffn, **{"n_experts": 64, "top_k": 4, **options})
    with pytest.raises(ValueError, match=message):
        seed_replace(layer, read_neurons(ffn), generator=generator())


def test_copies_refuse_another_width_or_gate():
    narrow = read_neurons(DenseConfig().build(8).double())
    layer = peer(dense(glu=False), n_experts=64, top_k=4)
    with pytest.raises(ValueError, match=r"a layer of width 16 can't take .* of width 8"):
        seed_copies(layer, narrow, noise=0.1, generator=generator())
    with pytest.raises(ValueError, match="glu=false, but the FFN's hidden units are gated"):
        seed_copies(layer, read_neurons(dense(glu=True)), noise=0.1, generator=generator())


def test_seeds_repeat_by_the_generator():
    ffn = dense(glu=True)
    layers = [peer(ffn, n_experts=100, top_k=4) for _ in range(2)]
    for layer in layers:
        seed_copies(layer, read_neurons(ffn), noise=0.1, generator=generator())
    for name, value in layers[0].named_parameters():
        assert torch.equal(value, layers[1].get_parameter(name)), name


@dataclass(frozen=True, kw_only=True)
class OwnConfig:
    """An MLP that is no Dense."""

    is_mlp: ClassVar[bool] = True
    activation: str = "relu"
    glu: bool = False

    def build(self, d_model):
        return Own(d_model)


class Own(MLP):
    activation = staticmethod(F.relu)

    def __init__(self, d_model):
        super().__init__()
        self.w_gate = None
        self.w_in = nn.Linear(d_model, 36, bias=False)
        self.w_out = nn.Linear(36, d_model, bias=False)


@pytest.mark.parametrize("how", ["copies", "replace"])
def test_any_mlp_has_neurons_and_another_layer_is_refused_by_its_name(how, monkeypatch):
    layer = PEERConfig(n_experts=64, n_heads=1, d_key=16, query_norm="none", activation="relu")
    find_how(how).check(None, layer, OwnConfig(), 0, D)
    monkeypatch.setattr(Own, "activation", staticmethod(torch.relu))  # not by one of the names
    with pytest.raises(ValueError, match="the activation of Own is not one of gelu, "):
        find_how(how).check(None, layer, OwnConfig(), 0, D)
    with pytest.raises(ValueError, match="block 3 of the weights holds None, which has no neurons"):
        find_how(how).check(None, layer, NoneConfig(), 3, D)
