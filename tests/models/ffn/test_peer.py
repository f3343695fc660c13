"""PEER of the paper, and the options that its rivals have, each by itself and all together."""

import copy

import pytest
import torch
import torch.nn.functional as F

from experiments.init import retrofit
from experiments.init.neurons import read_neurons, seed_copies, seed_replace
from experiments.kernels.ops import Execution
from experiments.kernels.trunk_passes import load_trunk
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import Fused
from experiments.models.roles import MAP, declared_roles, undeclared
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import check_effects, make_point, read_point
from tests.conftest import TINY
from tests.init.tiny import logits, tiny

D = 16
SMALL = {"n_experts": 64, "n_heads": 4, "top_k": 3, "d_key": 8}
OPTIONS = {
    "d_query_rank": {"d_query_rank": 5},
    "share_experts": {"share_experts": False},
    "output_gate": {"output_gate": True},
    "shared_width_factor": {"shared_width_factor": 1.5},
    "blocks_share_keys": {"blocks_share_keys": True},
}
ALL = {name: value for option in OPTIONS.values() for name, value in option.items()}


def peer(**options):
    return PEERConfig(**{**SMALL, **options})


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


def test_tensors_have_the_shapes_the_docs_say():
    layer = PEERConfig(n_experts=64, n_heads=4, top_k=2, d_key=10).build(D)
    assert layer.query.weight.shape == (4 * 10, D)
    assert layer.sub_keys.shape == (2, 8, 5)
    assert layer.w_down.shape == layer.w_up.shape == (64, D)
    layer = PEERConfig(n_experts=64, n_heads=4, top_k=2, d_key=10, share_keys=False).build(D)
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


def test_costs_of_options_by_hand():
    """d=1024, N=1024², eight heads of 16, d_key=256: each option beside the paper's layer."""
    d, h, k, q, r = 1024, 8, 16, 256, 64

    def beside(**options):
        glu = {"glu": options.get("glu", False)}
        cost, plain = (PEERConfig(**o).cost(d) for o in (options, glu))
        assert cost.n_active_params - plain.n_active_params == cost.n_params - plain.n_params
        return cost.n_params - plain.n_params, cost.forward_flops - plain.forward_flops

    saved = r * (d + h * q) - d * h * q
    assert beside(d_query_rank=r) == (saved, 2 * saved)
    side = 256  # 8 * 256²
    own = PEERConfig(share_experts=False, n_experts=8 * side**2).cost(d)
    keys = {t.name: t for t in own.terms}["keys"]
    assert (keys.n_params, keys.flops) == (side * q, 2 * h * side * q)
    assert own.n_active_params == d * h * q + side * q + 2 * h * q + 2 * h * k * d
    assert beside(output_gate=True) == (2 * d**2, 4 * d**2)
    assert beside(shared_width_factor=2.0) == (4 * d**2, 8 * d**2)
    assert beside(shared_width_factor=2.0, glu=True) == (6 * d**2, 12 * d**2)
    assert beside(blocks_share_keys=True) == (0, 0)


def test_roles_and_sizes_of_what_options_add():
    layer = PEERConfig(n_experts=256, n_heads=8, d_key=32, **{**ALL, "share_experts": True})
    made = layer.build(64)
    roles, sizes = declared_roles(made), dict(made.named_parameters())
    for name, std in {
        "query.down.weight": 64**-0.5,
        "query.up.weight": 5**-0.5,
        "output.w_gate.weight": 64**-0.5,
        "output.w_out.weight": 64**-0.5,
        "mlp.w_in.weight": 64**-0.5,
        "mlp.w_out.weight": 96**-0.5,
    }.items():
        assert (roles[name].group == "key") == name.startswith("query")
        assert roles[name].fan_in == MAP.fan_in
        # of 320 numbers at least: known to 4 %
        assert float(sizes[name].detach().std()) == pytest.approx(std, rel=0.15)
    assert not list(undeclared(made))
    assert made.query.weight.shape == (256, 64)
    x = torch.randn(5, 64)
    torch.testing.assert_close(made.query(x), F.linear(x, made.query.weight), rtol=1e-4, atol=1e-5)


def test_keys_that_blocks_share_are_not_put_into_a_trained_model():
    pytest.importorskip("transformers")
    with pytest.raises(ValueError, match="blocks_share_keys=true: layers that are put into a mod"):
        retrofit(tiny("Llama"), [1], peer(query_norm="layer", blocks_share_keys=True))


FFN = DenseConfig(width_factor=2.0)
SEEDED = {"n_experts": 64, "top_k": 4, "d_key": 16, "query_norm": "layer", "n_heads": 1}


def test_copies_of_neurons_beside_an_mlp_and_under_a_gate_write_nothing():
    neurons, x = read_neurons(FFN.build(D)), torch.randn(2, 5, D)
    layer = PEERConfig(**SEEDED, output_gate=True, shared_width_factor=1.0).build(D)
    seed_copies(layer, neurons, noise=0.1, generator=torch.Generator().manual_seed(0))
    assert not layer(x).any()
    assert layer.mlp.w_in.weight.any()


def test_a_layer_in_place_of_an_ffn_is_as_without_its_mlp():
    neurons, x = read_neurons(FFN.build(D)), torch.randn(2, 5, D)
    made = []
    for width in (0.0, 1.0):
        torch.manual_seed(0)
        layer = PEERConfig(**SEEDED, shared_width_factor=width).build(D)
        seed_replace(layer, neurons, generator=torch.Generator().manual_seed(0))
        made.append(layer(x))
    assert made[0].any()
    torch.testing.assert_close(*made)


@pytest.mark.parametrize(
    ("options", "seed", "message"),
    [
        ({"d_query_rank": 4}, seed_copies, "d_query_rank=4 is too narrow for queries"),
        ({"n_heads": 4, "share_experts": False}, seed_copies, "share_experts=false: an FFN's hid"),
        ({"output_gate": True}, seed_replace, "output_gate=true multiplies what experts write"),
    ],
)
def test_what_can_not_be_seeded_from_an_ffn_is_refused(options, seed, message):
    layer = PEERConfig(**{**SEEDED, **options}).build(D)
    noise = {"noise": 0.1} if seed is seed_copies else {}
    with pytest.raises(ValueError, match=message) as refusal:
        seed(layer, read_neurons(FFN.build(D)), **noise, generator=torch.Generator())
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "blocks_share_keys"])
def test_beside_the_mlps_of_a_trained_model_nothing_changes(name):
    pytest.importorskip("transformers")
    model = tiny("Llama")
    base = logits(model)
    retrofit(model, [1], peer(query_norm="layer", **OPTIONS[name]))
    assert torch.equal(logits(model), base)


def trunk(*ffns, **options):
    sizes = {"d_model": D, "d_head": 16, "vocab_size": 32, "seq_len": 16, "tie_head": True}
    return TransformerConfig(**{**sizes, "ffns": ffns, **options})


@pytest.mark.skipif(load_trunk() is None, reason="no C++ compiler")
def test_the_fused_half_is_that_of_the_layer_or_says_why_not():
    for options, why in (
        ({"d_query_rank": 5}, "queries in two factors, of rank 5, have"),
        ({"share_experts": False}, "experts of each head's own have"),
        ({"output_gate": True}, "a map of what experts sum up to (output_gate) has"),
    ):
        assert Fused(trunk(peer(**options)).build()).eager == {"ffn 0": f"{why} no fused form"}
    both = peer(shared_width_factor=1.5, blocks_share_keys=True)
    model = trunk(both, FFN, both).build()
    exact, fused = copy.deepcopy(model).double(), Fused(model)
    assert fused.eager == {}
    tokens = torch.randint(0, 32, (2, 17))
    loss, _ = fused.losses(tokens[:, :-1], tokens[:, 1:])
    wanted = F.cross_entropy(exact(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    loss.backward()
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for (name, found), slow in zip(model.named_parameters(), exact.parameters(), strict=True):
        off = (found.grad - slow.grad).norm() / slow.grad.norm()
        assert float(off) < 1e-4, name


def test_options_leave_no_mark_where_they_are_off(compose_raw):
    few = ("model=peer", "n_experts=64", "model.top_k=4", "size=2", "budget=2e9", *TINY)
    old = compose_raw(*few)
    for name in OPTIONS:
        del old["model"][name]
    assert make_point(old).run_id == make_point(compose_raw(*few)).run_id
    words = ("model.share_experts=false", "model.n_heads=1")
    with pytest.raises(ValueError, match=r"no effect with model\.n_heads=1"):
        check_effects(read_point(compose_raw(*few, *words)))
