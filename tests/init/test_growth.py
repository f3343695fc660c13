"""Layers with more experts: the function at growth, what has kept its place, and one step on."""

import copy
from dataclasses import replace

import pytest
import torch

from experiments.init import grow
from experiments.init.growth.product_keys import GROWER
from experiments.init.moments import grown_moments, has_moments, set_moments
from experiments.init.run_parts.growth import Growing
from experiments.models.ffn._base import Late
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.memory_plus import MemoryPlusConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.peer_narrow import PeerNarrowConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.transformer import TransformerConfig
from experiments.optim.adamw import MOMENTS, AdamWConfig
from experiments.optim.groups import build_optimizer
from experiments.optim.lion import LionConfig
from experiments.optim.soap import SOAPConfig

D = 16
SMALL = {"n_experts": 64, "n_heads": 2, "top_k": 4, "d_key": 16}
LAYERS = {
    "peer": PEERConfig(**SMALL),
    "glu": PEERConfig(**SMALL, glu=True, share_keys=False, query_norm="layer"),
    "sigmoid": PEERConfig(**SMALL, score="sigmoid", query_norm="none"),
    "relu": PEERConfig(**SMALL, score="relu", query_norm="layer"),
    "pkm": PKMConfig(**SMALL, share_keys=False),
    "memory_plus": MemoryPlusConfig(**SMALL, score="sigmoid"),
    "peer_narrow": PeerNarrowConfig(**SMALL, d_value=8),
}


def mixture(balance="bias", **options):
    rate = {"none": 0.0, "bias": 1e-3}[balance]
    return MoEConfig(routing="token_choice", balance=balance, balance_rate=rate, **options)


def relative(a, b):
    return float((a - b).detach().norm() / b.detach().norm())


@pytest.fixture(params=LAYERS)
def layer(request):
    """Whose batch statistics are those of some tokens."""
    made = LAYERS[request.param].build(D)
    with torch.no_grad():
        for _ in range(20):
            made(torch.randn(1, 64, D))
    return made


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_growth_by_bias_leaves_the_function_to_the_bit(layer, training, dtype):
    layer.train(training).to(dtype)
    x = torch.randn(2, 32, D, dtype=dtype)
    grown = grow(layer, 64 * 8).to(dtype)
    assert (grown.n_experts, grown.training) == (512, training)
    assert torch.equal(grown(x), layer(x))
    grown.eval().late = None
    again = grow(grown, 64 * 12)
    assert torch.equal(again(x), grown(x))
    assert again.config.key_sets == (96, 8)


def test_growth_by_copies_is_exact_to_rounding_and_copies_differ(layer):
    grown, x = grow(layer.eval(), 64 * 4, how="copies"), torch.randn(2, 32, D)
    assert grown.top_k == 16
    assert relative(grown(x), layer(x)) < 1e-6
    first, second = grown.output_weights()[0].unflatten(0, (4, 64))[:2]
    assert relative(first, second) > 0.05


def test_growth_beside_leaves_the_function_to_the_bit(layer):
    pair, x = grow(layer.eval(), 64 * 3, how="beside"), torch.randn(2, 32, D)
    assert torch.equal(pair(x), layer(x))
    assert pair.ffn is layer
    assert pair.layer.n_experts == 128


def test_old_experts_keep_their_numbers(layer):
    grown = grow(layer.eval(), 64 * 8)
    for name, table in layer.named_parameters():
        if len(table) == 64:
            assert torch.equal(getattr(grown, name)[:64], table)
    x = torch.randn(50, D)
    assert torch.equal(grown.route(x)[0], layer.route(x)[0])
    assert not grown.output_weights()[0][64:].any()


@pytest.mark.parametrize("config", [LAYERS["peer"], LAYERS["glu"]], ids=["shared", "a head"])
def test_new_keys_are_old_ones_and_noise_of_a_tenth_of_their_size(config):
    layer = config.build(D)
    same, near = (grow(layer, 64 * 32, noise=noise).sub_keys.detach() for noise in (0.0, 0.1))
    old = layer.sub_keys.detach()[..., 0, :, :]
    away = same[..., 8:256, None, :] - old[..., None, :, :]  # from each of the old, of its own head
    assert (away.square().sum(-1).min(-1).values == 0).all()
    assert away.square().sum(-1).argmin(-1).unique().numel() == 8
    noise = (near - same)[..., 8:256, :]
    # of 2,000 numbers or more: a standard deviation is known to 2 %
    assert float(noise.std() / old.std()) == pytest.approx(0.1, rel=0.08)


def test_new_experts_read_at_random_from_the_first_on():
    """Rows of a length of about 1, as at the start of a layer."""
    layer = LAYERS["glu"].build(D)
    grown = grow(layer, 64 * 8)
    for table in (grown.w_down, grown.w_gate):
        new = table.detach()[64:]
        assert float(new.std()) == pytest.approx(D**-0.5, rel=0.05)  # of 7,168 numbers
        assert new.norm(dim=1).min() > 0.2
    assert not torch.equal(grown.w_down[64:], grown.w_gate[64:])
    assert not grown.w_up[64:].any()


@pytest.mark.parametrize(("gate", "mean_gate"), [("softmax", 1 / 512), ("sigmoid", 0.5)])
def test_noise_on_the_choice_is_a_thousandth_of_the_mean_gate(gate, mean_gate):
    config = mixture(n_experts=4, gate=gate)
    grown = grow(config.build(4), 512, how="copies", noise=0.5)
    # of 512 numbers: known to 3 %
    assert float(grown.selection_bias.std()) == pytest.approx(0.5e-3 * mean_gate, rel=0.12)


@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_naive_growth_changes_the_function_by_tens_of_per_cent(layer, noise):
    grown, x = grow(layer.eval(), 64 * 8, noise=noise), torch.randn(2, 32, D)
    grown.late = None
    assert relative(grown(x), layer(x)) > 0.2


def test_the_measured_depth_keeps_new_keys_out_and_no_more_than_that(layer):
    grown, x = grow(layer.eval(), 64 * 8), torch.randn(64, D)
    depth = GROWER.late_depth(grown, x)
    wanted, wanted_gates = layer.route(x)
    grown.late = Late(n_old=8, bias=torch.tensor(-depth - 1e-4))
    indices, gates = grown.route(x)
    assert torch.equal(indices, wanted)
    torch.testing.assert_close(gates, wanted_gates, rtol=1e-5, atol=1e-6)
    grown.late = Late(n_old=8, bias=torch.tensor(-depth + 1e-2))
    assert (grown.route(x)[0] >= 64).any()


@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_a_mixture_of_one_expert_a_token_grows_exactly(gate):
    config = mixture(n_experts=4, gate=gate)
    layer, x = config.build(D).eval(), torch.randn(2, 32, D)
    layer.selection_bias += 0.05 * torch.randn(4)  # as training makes it
    grown = grow(layer, 12, how="copies")
    assert grown.n_experts == 12
    assert len(grown.selection_bias.unique()) == 12
    assert relative(grown(x), layer(x)) < 1e-6


@pytest.mark.parametrize("balance", ["none", "bias"])
@pytest.mark.parametrize("shared", [{}, {"glu": True, "n_shared_experts": 1}])
@pytest.mark.parametrize("gate", ["softmax", "sigmoid"])
def test_a_mixture_of_several_experts_a_token_keeps_all_copies(gate, shared, balance):
    """At the same top_k it would be another function."""
    config = mixture(n_experts=8, top_k=2, gate=gate, balance=balance, **shared)
    layer, x = config.build(D).eval(), torch.randn(2, 32, D)
    layer.selection_bias += 0.05 * torch.randn(8)
    grown = grow(layer, 24, how="copies")
    assert (grown.config.n_experts, grown.config.top_k) == (24, 6)
    before, after = ({t.name: t.flops for t in c.cost(D).terms} for c in (config, grown.config))
    assert after["experts"] == 3 * before["experts"]
    assert after["shared_experts"] == before["shared_experts"]
    assert relative(grown(x), layer(x)) < 2e-6
    first, second = grown.w_out.unflatten(0, (3, 8))[:2]
    assert 0.05 < relative(first, second) < 0.5
    same = replace(config, n_experts=24).build(D).eval()
    same.load_state_dict(grow(layer, 24, how="copies", noise=0.0).state_dict())
    if not shared:
        assert relative(same(x), layer(x)) > 0.5


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
@pytest.mark.parametrize("how", ["bias", "copies", "beside"])
def test_a_grown_layer_has_the_types_that_the_layer_had(layer, how, dtype):
    layer = layer.eval().to(dtype)
    grown, x = grow(layer, 64 * 4, how=how), torch.randn(2, 32, D, dtype=dtype)
    assert {p.dtype for p in grown.parameters()} == {dtype}
    bound = {torch.bfloat16: 0.1, torch.float64: 1e-12}[dtype]  # copies: of sums of rounded rows
    assert relative(grown(x), layer(x)) <= (bound if how == "copies" else 0)
    buffers = (grown.ffn if how == "beside" else grown).named_buffers()
    assert all(t.dtype == layer.get_buffer(n).dtype for n, t in buffers)


def test_tables_of_another_type_than_the_rest_keep_theirs():
    config = PEERConfig(**SMALL, query_norm="layer", table_dtype="bfloat16")
    grown = grow(config.build(D).double(), 256)
    assert {p.dtype for p in grown.parameters()} == {torch.float64}
    grown = grow(config.build(D), 256)
    assert {n: p.dtype for n, p in grown.named_parameters()} == {
        n: p.dtype for n, p in config.build(D).named_parameters()
    }


def test_a_grown_layer_counts_what_it_has():
    before, after = PEERConfig(**SMALL), grow(PEERConfig(**SMALL).build(D), 512).config
    cost = after.cost(D)
    assert after.key_sets == (64, 8)
    assert cost.n_params == sum(p.numel() for p in after.build(D).parameters())
    keys = {term.name: term for term in cost.terms}["keys"]
    assert keys.n_params == (64 + 8) * 8
    assert keys.flops == 2 * 2 * (64 + 8) * 8  # two a multiplication, heads, sub-keys, half a key
    unchanged = ("query", "query_norm", "pairs")
    assert [t for t in before.cost(D).terms if t.name in unchanged] == [
        t for t in cost.terms if t.name in unchanged
    ]


OPTIM = {
    "lr": 1e-2, "lr_d_model": D, "lr_width_exponent": 0.0, "table_lr": 1.0, "key_lr": 1.0,
    "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "grad_clip": None,
    "schedule": "cosine", "warmup": 0.0, "decay": 0.0, "final_lr": 0.1,
}  # fmt: skip


def transformer(layer):
    config = TransformerConfig(
        d_model=D, d_head=8, vocab_size=50, seq_len=16, tie_head=True, ffns=(DenseConfig(), layer)
    )
    return config.build()


def grown_of(model, config, n_experts, how):
    """Model whose layer of that config has more experts."""
    grown = transformer(config)
    grown.load_state_dict(model.state_dict())
    grown.blocks[1].ffn = layer = grow(grown.blocks[1].ffn, n_experts, how=how)
    grown.config = replace(grown.config, ffns=(DenseConfig(), layer.config))
    return grown, layer


def step(model, optimizer, tokens):
    optimizer.zero_grad()
    logits = model(tokens[:, :-1])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten()).backward()
    optimizer.step()


@pytest.mark.parametrize("gradient", ["dense", "rows", "fused"])
@pytest.mark.parametrize("name", ["peer", "glu", "pkm"])
def test_a_step_that_reads_old_experts_is_that_of_the_model_that_has_not_grown(name, gradient):
    optim, config = AdamWConfig(**OPTIM, table_gradient=gradient), LAYERS[name]
    model = transformer(config)
    optimizer = build_optimizer(model, 1e-2, optim, "torch")
    for _ in range(3):
        step(model, optimizer, torch.randint(0, 50, (4, 17)))

    grown, layer = grown_of(model, config, 512, "bias")
    saved = copy.deepcopy(optimizer.state_dict())
    moments = grown_moments(saved, grown, (DenseConfig(), config), (1,), optim, "bias")
    assert len(moments) == len(saved["state"]) == len(list(model.parameters()))
    stepped = build_optimizer(grown, 1e-2, optim, "torch")
    set_moments(stepped, grown, moments)
    new = {n: p[64:].clone() for n, p in layer.named_parameters() if len(p) == 512}
    new_keys = layer.sub_keys[..., 8:64, :].clone()

    tokens = torch.randint(0, 50, (4, 17))
    step(model, optimizer, tokens)
    step(grown, stepped, tokens)
    theirs = dict(model.named_parameters())
    for n, p in grown.named_parameters():
        if n.endswith("sub_keys"):
            assert torch.equal(p[..., :8, :], theirs[n][..., 0, :, :])
            assert torch.equal(p[..., 64:, :], theirs[n][..., 1, :, :])
            assert torch.equal(p[..., 8:64, :], new_keys)
        else:
            assert torch.equal(p[: len(theirs[n])], theirs[n]), n
    for n, rows in new.items():
        assert torch.equal(getattr(layer, n)[64:], rows)


@pytest.mark.parametrize("state", ["float32", "bfloat16"])
def test_moments_have_the_type_of_their_optimizer(state):
    """That of tables stepped by rows is chosen; others' is their parameter's. Steps are numbers."""
    model = transformer(LAYERS["peer"])
    optim = AdamWConfig(**OPTIM, table_gradient="rows", table_state=state)
    optimizer = build_optimizer(model, 1e-2, optim, "torch")
    moments = {
        name: {"step": torch.tensor(3.0), **{key: torch.ones_like(p).double() for key in MOMENTS}}
        for name, p in model.named_parameters()
    }
    set_moments(optimizer, model, moments)
    for name, p in model.named_parameters():
        is_table = name.endswith(("w_down", "w_up"))
        given = optimizer.state[p]
        assert given["exp_avg"].dtype == (getattr(torch, state) if is_table else torch.float32)
        assert given["step"].dtype == torch.float32
        assert given["exp_avg"] is not moments[name]["exp_avg"]


def test_experts_that_are_copied_begin_again_where_moments_are_not_of_entries():
    """SOAP keeps matrices of each expert's sides; of what has not grown they are kept."""
    config = MoEConfig(n_experts=4, routing="token_choice", top_k=2)
    optim = SOAPConfig(**OPTIM, soap_lr=1.0, soap_beta1=0.9, soap_beta2=0.9, soap_every=2)
    model = transformer(config)
    optimizer = build_optimizer(model, 1e-2, optim, "torch")
    for _ in range(3):
        step(model, optimizer, torch.randint(0, 50, (4, 17)))
    grown, _ = grown_of(model, config, 8, "copies")
    saved = optimizer.state_dict()
    moments = grown_moments(saved, grown, (DenseConfig(), config), (1,), optim, "copies")
    begun = {f"blocks.1.ffn.{name}" for name in ("router.weight", "w_in", "w_out")}
    assert {name for name, _ in grown.named_parameters()} - moments.keys() == begun
    assert "left_basis" in moments["blocks.0.ffn.w_in.weight"]
    stepped = build_optimizer(grown, 1e-2, optim, "torch")
    set_moments(stepped, grown, moments)
    for _ in range(2):
        step(grown, stepped, torch.randint(0, 50, (4, 17)))
    assert all(p.isfinite().all() for p in grown.parameters())
    # nor are moments of another optimizer taken, which has as many groups
    lion = LionConfig(**OPTIM, lion_lr=1.0, lion_beta1=0.9, lion_beta2=0.9)
    adamw = build_optimizer(model, 1e-2, AdamWConfig(**OPTIM), "torch")
    step(model, adamw, torch.randint(0, 50, (4, 17)))
    of_adamw = adamw.state_dict()
    assert has_moments(of_adamw, grown, (DenseConfig(), config), AdamWConfig(**OPTIM))
    assert not has_moments(of_adamw, grown, (DenseConfig(), config), lion)


def test_the_bias_of_late_keys_rises_to_0_by_the_step():
    layer = grow(LAYERS["peer"].build(D), 128)
    growing = Growing({layer: (8, 6.0)}, 4, {})
    biases = []
    for step in range(4):
        growing.before_step(step)
        assert layer.late.n_old == 8
        biases.append(float(layer.late.bias))
    assert biases == [-6.0, -4.5, -3.0, -1.5]
    for step in (4, 5):
        growing.before_step(2)
        growing.before_step(step)
        assert layer.late is None


PEER, MOE = LAYERS["peer"], MoEConfig(n_experts=4)
WAYS = "is no way in which PEER grows; set how=bias or copies or beside"
REFUSED = [
    (PEER, 64, "bias", "n_experts=64 is not more than the 64"),
    (PEER, 32, "copies", "n_experts=32 is not more than"),
    (PEER, 100, "bias", "n_experts=100 must be a multiple of 8.*nearest: 96, 104"),
    (PEER, 100, "copies", "n_experts=100 must be a multiple of 64.*nearest: 64, 128"),
    (PEER, 66, "beside", "must be a multiple of 8"),
    (PEER, 128, "double", f"'double' {WAYS}"),
    (DenseConfig(), 128, "bias", "Dense has no experts"),
    (MOE, 8, "bias", "is no way in which MoE grows; set how=copies"),
    (MOE, 8, "beside", "is no way in which MoE grows; set how=copies"),
    (MOE, 8, "copies", "routing=expert_choice can't grow"),
]


@pytest.mark.parametrize(("config", "n_experts", "how", "why"), REFUSED)
def test_numbers_and_layers_that_can_not_be(config, n_experts, how, why):
    with pytest.raises(ValueError, match=why):
        grow(config.build(D), n_experts, how=how)
