"""PEER's options that its rivals have, each by itself and all together."""

import copy

import pytest
import torch
import torch.nn.functional as F

from experiments.init import grow, retrofit
from experiments.init.growth.product_keys import GROWER
from experiments.init.neurons import read_neurons, seed_copies, seed_replace
from experiments.kernels.ops import Execution
from experiments.kernels.trunk_passes import load_trunk
from experiments.models.ffn._base import Late
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import Fused
from experiments.models.roles import MAP, declared_roles, undeclared
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import check_effects, make_point, read_point
from tests.conftest import TINY
from tests.init.tiny import logits, tiny
from tests.models.ffn.lives import assert_text_goes_on_as_without_a_cache, by_the_command, child_of
from tests.models.ffn.reference import assert_as_by_reference, assert_same, normed, with_random_norm

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


def written_out(layer, x):
    """Each token by itself, by a scan over all pairs of sub-keys of each head."""
    config, tokens = layer.config, x.reshape(-1, D)
    n_heads, (n_first, n_second) = config.n_heads, config.key_sets
    if config.d_query_rank is None:
        queries = tokens @ layer.query.weight.t()
    else:
        queries = tokens @ layer.query.down.weight.t() @ layer.query.up.weight.t()
    queries = normed(queries.view(len(tokens), n_heads, -1), "batch", layer.query_norm.norm)
    out = []
    for t, token in enumerate(tokens):
        total = torch.zeros_like(token)
        for h in range(n_heads):
            keys = layer.sub_keys if config.share_keys else layer.sub_keys[h]
            keys = keys.reshape(n_first + n_second, -1)
            half = config.d_key // 2
            scores, rows = [], []
            for i in range(n_first):
                for j in range(n_second):
                    q1, q2 = queries[t, h, :half], queries[t, h, half:]
                    scores.append(q1 @ keys[i] + q2 @ keys[n_first + j])
                    own = (i * n_heads + h) * n_second + j
                    rows.append(i * n_second + j if config.share_experts else own)
            best = torch.stack(scores).topk(config.top_k)
            for gate, n in zip(best.values.softmax(0), best.indices, strict=True):
                unit = layer.w_down[rows[n]] @ token
                if config.glu:
                    unit = layer.activation(layer.w_gate[rows[n]] @ token) * unit
                else:
                    unit = layer.activation(unit)
                total = total + gate * unit * layer.w_up[rows[n]]
        if config.output_gate:
            opened = layer.output.w_gate.weight @ token
            total = layer.output.w_out.weight @ (total * opened * torch.sigmoid(opened))
        if config.shared_width_factor:
            hidden = layer.mlp.w_in.weight @ token
            if config.glu:
                hidden = layer.activation(layer.mlp.w_gate.weight @ token) * hidden
            else:
                hidden = layer.activation(hidden)
            total = total + layer.mlp.w_out.weight @ hidden
        out.append(total)
    return torch.stack(out).view_as(x)


@pytest.mark.parametrize(
    "options",
    [
        *OPTIONS.values(),
        {"share_experts": False, "share_keys": False, "n_first_keys": 8},
        {**ALL, "glu": True, "activation": "silu", "n_first_keys": 2},
    ],
    ids=str,
)
def test_output_and_gradients_are_those_written_out(options):
    layer = with_random_norm(peer(**options).build(D).double())
    x = torch.randn(2, 3, D, dtype=torch.float64)
    assert_same(layer, lambda x: written_out(layer, x), x)


@pytest.mark.parametrize("kernel", ["torch", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_kernels_and_gradients_of_rows_are_the_references(kernel, dtype):
    layer = peer(**ALL, table_dtype=dtype).build(D)
    x = torch.randn(2, 9, D)
    assert_as_by_reference(layer, Execution(kernel=kernel, gradient="rows"), x)


def test_costs_by_hand():
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


def test_experts_of_a_head_s_own_are_read_by_it_alone():
    layer = peer(share_experts=False).build(D)
    assert layer.config.key_sets == (4, 4)
    indices, _ = layer.route(torch.randn(50, D))
    heads = torch.arange(4).repeat_interleave(3)
    assert (indices // 4 % 4 == heads).all()  # rows are (i, h, j)
    assert all(len(row.unique()) == 12 for row in indices)


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


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"d_query_rank": 0}, "d_query_rank=0 must be at least 1"),
        ({"d_query_rank": 32}, r"d_query_rank=32 must be below n_heads \* d_key = 32, where"),
        ({"d_query_rank": 1.5}, "d_query_rank=1.5 must be of type int"),
        ({"share_experts": False, "n_experts": 60}, "must be 4 times a perfect square; nearest"),
        ({"share_experts": False, "top_k": 17}, "top_k=17 must be at most n_experts=64, 16 for"),
        ({"share_experts": False, "n_experts": 96, "n_first_keys": 5}, "multiple of 4 times n_fi"),
        ({"output_gate": 2}, "output_gate=2 must be of type bool"),
        ({"shared_width_factor": -1.0}, "shared_width_factor=-1 must be at least 0"),
        ({"shared_width_factor": float("nan")}, "shared_width_factor=nan must be"),
    ],
)
def test_refuses_what_it_cannot_be(options, message):
    with pytest.raises(ValueError, match=message) as refusal:
        peer(**options)
    assert "\n" not in str(refusal.value)


GROWING = {name: option for name, option in OPTIONS.items() if name != "blocks_share_keys"}


@pytest.fixture(params=[*GROWING.values(), {k: v for k, v in ALL.items() if k in GROWING}], ids=str)
def growing(request):
    return peer(**request.param).build(D).eval()


@pytest.mark.parametrize(("how", "bound"), [("bias", 0), ("copies", 2e-6), ("beside", 0)])
def test_it_grows_to_the_same_function(growing, how, bound):
    """Allowance for copies: sums of float32 in another order."""
    grown, x = grow(growing, 64 * 4, how=how), torch.randn(2, 16, D)
    with torch.no_grad():
        off = (grown(x) - growing(x)).norm() / growing(x).norm()
    assert float(off) <= bound


def test_a_grown_layer_keeps_numbers_and_maps_and_lets_new_experts_in(growing):
    grown, x = grow(growing, 64 * 4), torch.randn(50, D)
    old, new = dict(growing.named_parameters()), dict(grown.named_parameters())
    for name in old:
        if name not in ("sub_keys", "w_down", "w_up"):
            assert torch.equal(old[name], new[name])
    assert torch.equal(grown.w_up[:64], growing.w_up)
    assert not grown.w_up[64:].any()
    assert grown.w_down[64:].norm(dim=1).min() > 0.1
    n_old = growing.config.key_sets[0]
    grown.late = Late(n_old=n_old, bias=torch.tensor(-GROWER.late_depth(grown, x) - 1e-4))
    assert torch.equal(grown.route(x)[0], growing.route(x)[0])
    grown.late = None
    assert (grown.route(x)[0] >= 64).any()


def test_keys_that_blocks_share_do_not_grow_and_are_not_put_into_a_trained_model():
    with pytest.raises(ValueError, match="blocks_share_keys=true: a layer whose keys others read"):
        grow(peer(blocks_share_keys=True).build(D), 256)
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


@pytest.mark.parametrize("options", [*GROWING.values()], ids=str)
def test_beside_the_mlps_of_a_trained_model_nothing_changes(options):
    pytest.importorskip("transformers")
    model = tiny("Llama")
    base = logits(model)
    retrofit(model, [1], peer(query_norm="layer", **options))
    assert torch.equal(logits(model), base)


def trunk(*ffns, **options):
    sizes = {"d_model": D, "d_head": 16, "vocab_size": 32, "seq_len": 16, "tie_head": True}
    return TransformerConfig(**{**sizes, "ffns": ffns, **options})


def loss_of(model):
    tokens = torch.randint(0, 32, (2, 17), generator=torch.Generator().manual_seed(1))
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


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


def test_keys_that_blocks_share_are_one_tensor_counted_once_and_used_twice():
    ours, own = (peer(blocks_share_keys=shared) for shared in (True, False))
    shared, apart = trunk(ours, FFN, ours), trunk(own, FFN, own)
    model, other = shared.build().double(), apart.build().double()
    first, last = model.blocks[0].ffn, model.blocks[2].ffn
    assert first.sub_keys is last.sub_keys
    assert first.w_up is not last.w_up
    n_keys = first.sub_keys.numel()
    one, two = shared.cost(), apart.cost()
    assert one.n_params == sum(p.numel() for p in model.parameters()) == two.n_params - n_keys
    assert one.n_active_params == two.n_active_params - n_keys
    assert one.forward_flops == two.forward_flops
    other.load_state_dict(model.state_dict())
    for which in (model, other):
        loss_of(which).backward()
    parts = [other.blocks[i].ffn.sub_keys.grad for i in (0, 2)]
    assert all(part.any() for part in parts)
    torch.testing.assert_close(first.sub_keys.grad, sum(parts), rtol=1e-9, atol=1e-12)


RUN = ("model=peer", "n_experts=128", "model.n_heads=2", "model.top_k=4", "model.d_key=8")
RUN += ("model.query_norm=layer", "model.share_experts=false", "model.output_gate=true")
RUN += ("model.d_query_rank=6", "model.shared_width_factor=1")


def test_options_leave_no_mark_where_they_are_off_and_are_refused_where_they_do_nothing(
    compose_raw,
):
    few = ("model=peer", "n_experts=64", "model.top_k=4", "size=2", "budget=2e9", *TINY)

    def read(*words):
        return read_point(compose_raw(*few, *words))

    old = compose_raw(*few)
    for name in ("d_query_rank", "share_experts", "output_gate"):
        del old["model"][name]
    for name in ("shared_width_factor", "blocks_share_keys"):
        del old["model"][name]
    assert make_point(old).run_id == make_point(compose_raw(*few)).run_id
    for words, why in (
        (("model.share_experts=false", "model.n_heads=1"), "no effect with model.n_heads=1"),
        (("model.blocks_share_keys=true",), "no effect with one block of it"),
    ):
        with pytest.raises(ValueError, match=why):
            check_effects(read(*words))
    keys = ("model.blocks_share_keys=true", "trunk.ffn_blocks=all")
    point = make_point(compose_raw(*few, *keys))
    held = sum(p.numel() for p in point.transformer.build().parameters())
    assert point.plan.memory.weights == 4 * held
    fused = ("optim.table_gradient=fused", "optim.grad_clip=null")
    assert make_point(compose_raw(*few, *keys, *fused)).plan.memory.total > 0


def test_a_run_of_all_but_shared_keys_learns_goes_on_grows_and_starts_beside(
    run, compose_raw, tmp_path
):
    run_dir, before = by_the_command(run, tmp_path, *RUN, "optim.table_gradient=rows")
    assert_text_goes_on_as_without_a_cache(run_dir)
    grown = child_of(compose_raw, run_dir, "n_experts=512", "init.how=bias", "init.train=all")
    assert grown.before["validation"]["loss"] == before.val_loss
    way = ("trunk.ffn_blocks=[1]", "init.how=beside", "init.train=layer")
    beside = child_of(compose_raw, run_dir, *RUN, *way)
    assert beside.init["exact"] is True
    assert beside.before["validation"]["loss"] == before.val_loss
    assert beside.val_loss < before.val_loss


def test_a_run_of_shared_keys_learns_and_goes_on(run, compose_raw, tmp_path):
    few = ("model=peer", "n_experts=64", "model.top_k=4", "model.d_key=8")
    few += ("model.query_norm=layer", "model.blocks_share_keys=true", "trunk.ffn_blocks=all")
    run_dir, _ = by_the_command(
        run, tmp_path, *few, "optim.table_gradient=fused", "optim.grad_clip=null"
    )
    assert_text_goes_on_as_without_a_cache(run_dir)
    with pytest.raises(ValueError, match=r"model\.blocks_share_keys=true with weights to start"):
        child_of(compose_raw, run_dir, "init.how=keep", "init.train=all")
