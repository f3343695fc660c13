"""Layers that retrieve by product keys, each token by itself, by a scan over all keys."""

from dataclasses import replace

import pytest
import torch

from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.pkm import PKMConfig
from tests.models.ffn.reference import assert_same, normed, with_random_norm

D = 12
KEYS = {"n_experts": 36, "n_heads": 3, "top_k": 5, "d_key": 8}
FOUR_HEADS = {"n_experts": 64, "n_heads": 4, "top_k": 3}
RIVALS = {  # all the options that PEER has from its rivals
    "d_query_rank": 5, "share_experts": False, "output_gate": True, "shared_width_factor": 1.5,
    "blocks_share_keys": True,
}  # fmt: skip


def retrieved(layer, tokens):
    """Of each of (T, d_model) tokens its gates and the rows of its experts, for all heads one after
    the other.
    """
    config, n_heads = layer.config, layer.n_heads
    n_first, n_second = config.key_sets
    if config.query_rank is None:
        queries = tokens @ layer.query.weight.t()
    else:
        queries = tokens @ layer.query.down.weight.t() @ layer.query.up.weight.t()
    queries = queries.view(len(tokens), n_heads, -1)
    queries = normed(queries, config.query_norm, layer.query_norm.norm)
    for of_token in queries:
        found = []
        for h in range(n_heads):
            keys = layer.sub_keys if config.share_keys else layer.sub_keys[h]
            keys = keys.reshape(n_first + n_second, -1)
            q1, q2 = of_token[h].chunk(2)
            pairs = [(i, j) for i in range(n_first) for j in range(n_second)]
            best = torch.stack([q1 @ keys[i] + q2 @ keys[n_first + j] for i, j in pairs])
            best = best.topk(config.top_k)
            for gate, n in zip(layer.score(best.values), best.indices, strict=True):
                i, j = pairs[n]
                row = i if config.n_groups == 1 else i * n_heads + h
                found.append((gate, row * n_second + j))
        yield found


def experts(layer, token, found):
    """He 2024, arXiv:2407.04153, Alg. 1 and Eq. 1-7; or gated, act(w_gate x) w_down x."""
    total = torch.zeros_like(token)
    for gate, row in found:
        unit = layer.w_down[row] @ token
        if getattr(layer, "w_gate", None) is not None:
            unit = layer.activation(layer.w_gate[row] @ token) * unit
        else:
            unit = layer.activation(unit)
        total = total + gate * unit * layer.w_up[row]
    return total


def gated(maps, token, total):
    opened = maps.w_gate.weight @ token
    return maps.w_out.weight @ (total * opened * torch.sigmoid(opened))


def peer(layer, token, found):
    config, total = layer.config, experts(layer, token, found)
    if config.output_gate:
        total = gated(layer.output, token, total)
    if config.shared_width_factor:
        hidden = layer.mlp.w_in.weight @ token
        if config.glu:
            hidden = layer.activation(layer.mlp.w_gate.weight @ token) * hidden
        else:
            hidden = layer.activation(hidden)
        total = total + layer.mlp.w_out.weight @ hidden
    return total


def peer_narrow(layer, token, found):
    return layer.w_out.weight @ experts(layer, layer.w_in.weight @ token, found)


def pkm(layer, token, found):
    return sum(gate * layer.values[row] for gate, row in found)


def memory_plus(layer, token, found):
    return gated(layer, token, pkm(layer, token, found))


WRITTEN = {
    (PEERConfig, peer): (
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
        *({**FOUR_HEADS, name: value} for name, value in RIVALS.items()),
        {**FOUR_HEADS, "share_experts": False, "share_keys": False, "n_first_keys": 8},
        {**FOUR_HEADS, **RIVALS, "glu": True, "activation": "silu", "n_first_keys": 2},
    ),
    (PeerNarrowConfig, peer_narrow): (
        {"d_value": 5},
        {"d_value": 5, "share_keys": False, "query_norm": "layer"},
        {"d_value": 5, "query_norm": "none", "score": "sigmoid", "activation": "identity"},
        {"d_value": 5, "n_heads": 1, "top_k": 8, "score": "relu", "activation": "silu"},
        {"d_value": 20},
    ),
    (PKMConfig, pkm): ({"query_norm": "none"}, {"query_norm": "layer"}, {"query_norm": "batch"}),
    (MemoryPlusConfig, memory_plus): (
        {},
        {"share_keys": False, "query_norm": "layer"},
        {"query_norm": "none", "score": "sigmoid"},
        {"n_heads": 1, "top_k": 36, "score": "relu"},
    ),
}


@pytest.mark.parametrize(
    ("kind", "written", "options"),
    [(*key, options) for key, rows in WRITTEN.items() for options in rows],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_output_and_gradients_are_those_written_out(kind, written, options):
    layer = with_random_norm(kind(**{**KEYS, **options}).build(D).double())

    def by_hand(x):
        tokens = x.reshape(-1, D)
        each = zip(tokens, retrieved(layer, tokens), strict=True)
        return torch.stack([written(layer, token, found) for token, found in each]).view_as(x)

    assert_same(layer, by_hand, torch.randn(2, 3, D, dtype=torch.float64))


def test_pkm_reads_as_many_rows_as_peer_at_the_papers_sizes():
    """PKM's 8 heads of 32 values against PEER's 8 of 16 experts of two rows each."""
    flops = [
        next(t.flops for t in config.cost(1024).terms if t.name == name)
        for config, name in ((PKMConfig(), "values"), (PEERConfig(), "experts"))
    ]
    assert flops[0] == flops[1]


def test_costs_of_memory_plus_by_hand():
    """d=1024: N=1024², four heads of 32, d_key=256."""
    d, h, k, q, n = 1024, 4, 32, 256, 1024**2
    cost = MemoryPlusConfig().cost(d)
    routing = d * h * q + 1024 * q + 2 * h * q
    assert cost.n_params == routing + n * d + 2 * d**2
    assert cost.n_active_params == routing + h * k * d + 2 * d**2
    of_router = 2 * d * h * q + 2 * h * 1024 * q + h * k**2
    assert cost.forward_flops == of_router + 2 * h * k * d + 4 * d**2


def test_costs_of_peer_narrow_by_hand():
    """d=1024 and the paper's 192: N=1024², one head of 32, d_key=256."""
    d, w, k, q, n = 1024, 192, 32, 256, 1024**2
    cost = PeerNarrowConfig().cost(d)
    routing = d * q + 1024 * q + 2 * q
    assert cost.n_params == routing + 2 * d * w + 2 * n * w
    assert cost.n_active_params == routing + 2 * d * w + 2 * k * w
    assert cost.forward_flops == 2 * d * q + 2 * 1024 * q + k**2 + 4 * d * w + 4 * k * w
    tables = [term for term in cost.terms if term.n_tables]
    assert [(t.n_tables, t.d_row, t.n_params) for t in tables] == [(2, w, 2 * n * w)]


def test_tables_of_peer_narrow_have_rows_of_their_own_width():
    layer = PeerNarrowConfig(n_experts=1024, d_value=16, d_key=8).build(64)
    shapes = {name: tuple(p.shape) for name, p in layer.named_parameters()}
    assert shapes["w_in.weight"] == (16, 64)
    assert shapes["w_out.weight"] == (64, 16)
    assert shapes["w_down"] == shapes["w_up"] == (1024, 16)
    zero = replace(layer.config, value_init="zero").build(64)
    assert not zero.w_up.any()
    assert not zero(torch.randn(1, 3, 64)).any()
