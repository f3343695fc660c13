"""mup and completep: at the base, what becomes of each matrix, and what is refused."""

from dataclasses import asdict, dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from experiments.benchmarks.coordinates import made_text
from experiments.benchmarks.core.loop import OPTIM
from experiments.budget.costs import Cost, Term
from experiments.config.hydra_hints import choice_names
from experiments.config.reading import build
from experiments.interchange.forms import are_equal as are_same_tensors
from experiments.interchange.forms import find_form
from experiments.models.ffn._base import FFN
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.folded import folded
from experiments.models.parametrization import Base, Scale
from experiments.models.roles import declared_roles, undeclared
from experiments.models.transformer import TransformerConfig
from experiments.optim.gradients import clip_gradients
from experiments.optim.groups import build_optimizer, parameter_groups
from experiments.optim.muon import MuonConfig
from tests.rounding import assert_rounding

NAMES = [name for name in choice_names("model") if name != "weights"]
PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
FINE = MoEConfig(
    n_experts=8, routing="token_choice", top_k=2, gate="sigmoid", granularity=8.0,
    n_shared_experts=1, glu=True,
)  # fmt: skip


def config(*ffns, d_model=32, base=None, **options):
    sizes = {"d_head": 8, "vocab_size": 16, "seq_len": 16, "tie_head": False}
    return TransformerConfig(**{**sizes, "d_model": d_model, "ffns": ffns, "base": base, **options})


def made(config, seed=0):
    torch.manual_seed(seed)
    return config.build()


def trained(config, lr=1e-2, optim=OPTIM, n_steps=3):
    """Model after some steps, and its losses."""
    model, text, losses = made(config), made_text(0), []
    optimizer = build_optimizer(model, lr, optim, "torch")
    for _ in range(n_steps):
        loss = F.cross_entropy(model(text[:, :-1]).flatten(0, 1), text[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    return model, losses


def layer_of(name, compose_raw):
    node = compose_raw(f"model={name}")["model"]
    # of keys as many that their size is known to 3 %
    few = {"n_experts": 1024 if "d_key" in node else 16} if "n_experts" in node else {}
    return build({**node, **few}, "model")


def are_equal(one, other):
    pairs = zip(one.named_parameters(), other.named_parameters(), strict=True)
    return all(n == m and torch.equal(p, q) for (n, p), (m, q) in pairs)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_base_nothing_changes_to_the_bit(name, compose_raw):
    ffn = layer_of(name, compose_raw)
    plain = config(ffn, DenseConfig())
    own = replace(plain, base=Base(d_model=32, d_head=8, n_layers=2))
    assert are_equal(made(plain), made(own))
    groups, ours = (parameter_groups(made(c), 1e-2, OPTIM) for c in (plain, own))
    for group, our in zip(groups, ours, strict=True):
        assert {k: v for k, v in group.items() if k != "params"} == {
            k: v for k, v in our.items() if k != "params"
        }
    (model, losses), (scaled, others) = trained(plain), trained(own)
    assert losses == others
    assert are_equal(model, scaled)


@pytest.mark.parametrize("name", NAMES)
def test_initial_values_go_with_the_width_as_the_roles_say(name, compose_raw):
    """A map's as the inverse root of its fan-in; those of rows stay, and vectors too."""
    ffn = layer_of(name, compose_raw)
    small, large = (
        made(config(ffn, d_model=d, base=Base(d_model=32, d_head=8))) for d in (32, 128)
    )
    roles = declared_roles(large)
    before = dict(small.named_parameters())
    for parameter_name, parameter in large.named_parameters():
        old, parameter = before[parameter_name].detach(), parameter.detach()
        role = roles.get(parameter_name)
        if not old.any():
            assert not parameter.any()
            continue
        if parameter.numel() < 32 and parameter.unique().numel() == parameter.numel():
            continue  # drawn, and too few for a root mean square within a tenth
        size = parameter.square().mean().sqrt() / old.square().mean().sqrt()
        grown = 1.0
        if role is not None and role.fan_in is not None:
            grown = parameter.shape[role.fan_in] / old.shape[role.fan_in]
        assert float(size) == pytest.approx(grown**-0.5, rel=0.1), parameter_name


def test_every_matrix_s_factors_by_arithmetic():
    """At four times the base: the fan-in of a row is 1, that of a map of d_model is 4 times as
    large; d_key and the numbers of experts and words stay.
    """
    base = Base(d_model=32, d_head=8)
    found = made(
        config(PEER, FINE, PKMConfig(n_experts=64, top_k=4), base=base, d_model=128)
    ).scales()
    hidden = Scale(lr=1 / 4, decay=4, eps=1 / 4, fan_in=4, fan_out=4)
    rows = Scale(init=2, eps=1 / 4, fan_out=4)
    few_outputs = Scale(lr=1 / 4, decay=4, fan_in=4)
    expected = {
        "embedding.weight": rows,
        "head.weight": rows,
        "norm.weight": Scale(eps=1 / 4, fan_out=4),
        "blocks.0.attention.qkv.weight": hidden,
        "blocks.0.attention.out.weight": hidden,
        "blocks.0.ffn.query.weight": few_outputs,
        "blocks.0.ffn.sub_keys": Scale(),
        "blocks.0.ffn.query_norm.norm.weight": Scale(),
        "blocks.0.ffn.w_down": few_outputs,
        "blocks.0.ffn.w_up": rows,
        "blocks.1.ffn.router.weight": few_outputs,
        "blocks.1.ffn.w_in": hidden,
        "blocks.1.ffn.w_gate": hidden,
        "blocks.1.ffn.w_out": hidden,
        "blocks.1.ffn.shared_in.weight": hidden,
        "blocks.1.ffn.shared_out.weight": hidden,
        "blocks.2.ffn.values": rows,
    }
    assert {name: found[name] for name in expected} == expected
    found = made(config(replace(PEER, glu=True), base=base, d_model=128)).scales()
    assert found["blocks.0.ffn.w_gate"] == found["blocks.0.ffn.w_down"] == few_outputs
    deep = Base(d_model=32, d_head=8, n_layers=1)
    found = made(config(PEER, FINE, base=deep, d_model=128)).scales()
    assert found["blocks.0.ffn.w_down"] == replace(few_outputs, eps=1 / 2)
    assert found["blocks.1.ffn.w_in"] == replace(hidden, eps=1 / 8)
    assert found["embedding.weight"] == rows


def test_rates_decay_and_epsilon_of_groups():
    """Rate times decay of a map is what it is at the base; tables and keys do not decay."""
    model = made(config(replace(PEER, glu=True), d_model=128, base=Base(d_model=32, d_head=8)))
    optimizer = build_optimizer(model, 1e-2, OPTIM, "torch")
    names = {id(p): n.removeprefix("blocks.0.") for n, p in model.named_parameters()}
    found = {
        names[id(p)]: (g["lr"], g["weight_decay"], g["eps"])
        for g in optimizer.param_groups
        for p in g["params"]
    }
    assert optimizer.param_groups[0]["lr"] == 1e-2  # what a run's history calls its rate
    assert found["embedding.weight"] == (1e-2, 0.1, 2.5e-9)
    assert found["attention.qkv.weight"] == (2.5e-3, 0.4, 2.5e-9)
    assert found["ffn.w_down"] == found["ffn.w_gate"] == pytest.approx((5e-3, 0, 1e-8))
    assert found["ffn.w_up"] == (2e-2, 0, 2.5e-9)
    assert found["ffn.query.weight"] == pytest.approx((5e-4, 0, 1e-8))
    assert found["ffn.sub_keys"] == pytest.approx((2e-3, 0, 1e-8))


def test_muon_s_rates_of_a_router_whose_fan_in_alone_grows():
    """From (8, 32) to (8, 128) at muon_lr = 3. Steps are 0.2 sqrt(largest side) times the rate, and
    their norm must go as sqrt(fan-out / fan-in), by a half. A map of both sides: by one.
    """
    model = made(config(FINE, d_model=128, base=Base(d_model=32, d_head=8)))
    optim = MuonConfig(**asdict(OPTIM), muon_lr=3.0)
    names = {id(p): n.removeprefix("blocks.0.") for n, p in model.named_parameters()}
    rates = {
        names[id(p)]: (group["lr"], group["lr"] * group["weight_decay"])
        for group in parameter_groups(model, 1e-2, optim)
        if group["by"] is optim
        for p in group["params"]
    }
    decay = 3e-2 * OPTIM.weight_decay
    assert rates["ffn.router.weight"] == pytest.approx((3e-2 * (1 / 2) / 2, decay))
    assert rates["attention.out.weight"] == pytest.approx((3e-2 / 2, decay))


def test_multipliers_are_ratios_to_the_base():
    base = Base(d_model=32, d_head=8, n_layers=1)
    found = config(PEER, PEER, d_model=128, d_head=32, base=base).multipliers
    assert (found.head, found.attention, found.residual) == (0.25, 0.5, 0.5)


@pytest.mark.parametrize("tie_head", [True, False])
@pytest.mark.parametrize("ffn", [DenseConfig(), PEER, FINE], ids=["dense", "peer", "moe"])
def test_a_forward_pass_is_that_of_folded_weights(ffn, tie_head):
    """To the bit: all multipliers here are powers of two."""
    base = Base(d_model=32, d_head=8, n_layers=1)
    own = config(ffn, ffn, d_model=128, d_head=32, tie_head=tie_head, base=base)
    model, text = trained(own)[0].eval(), made_text(1)
    plain = folded(model)
    assert plain.config.base is None
    assert plain.config.multipliers == config(ffn).multipliers
    with torch.no_grad():
        assert_rounding(plain(text), model(text), n_blocks=2)
        assert plain(text).std() > 0.01
    form, same = (
        find_form(model, "mine", 0),
        find_form(plain, "mine", 0),
    )  # an export has none either
    assert form.config == same.config
    assert are_same_tensors(form.state, same.state)
    standard = made(config(ffn))
    assert folded(standard) is standard


def test_depth_divides_what_blocks_add():
    """Twice as many blocks add half as much each, from the same initial values."""
    base = Base(d_model=32, d_head=8, n_layers=2)
    shallow, deep = (made(config(*[DenseConfig()] * n, base=base)) for n in (2, 4))
    assert (shallow.blocks[0].multiplier, deep.blocks[0].multiplier) == (1, 0.5)
    sizes = [m.blocks[1].ffn.w_out.weight.detach().std().item() for m in (shallow, deep)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.05)


@dataclass(frozen=True, kw_only=True)
class MineConfig:
    def cost(self, d_model):
        return Cost((Term(name="mine", n_params=d_model**2, flops=2 * d_model**2),))

    def build(self, d_model):
        return Mine(d_model)


class Mine(FFN):
    def __init__(self, d_model):
        super().__init__()
        self.mix = nn.Parameter(torch.randn(d_model, d_model) * d_model**-0.5)

    def forward(self, x):
        return x @ self.mix


def test_a_layer_that_declares_no_role_is_refused_but_in_sp():
    plain = config(MineConfig())
    assert trained(plain)[1]
    why = r"needs the role of each matrix, and blocks\.0\.ffn\.mix of Mine has none; declare it"
    with pytest.raises(ValueError, match=f"mup or completep {why}"):
        replace(plain, base=Base(d_model=16, d_head=8)).build()
    with pytest.raises(ValueError, match=f"optim=muon {why}"):
        parameter_groups(made(plain), 1e-2, MuonConfig(**asdict(OPTIM)))


@pytest.mark.parametrize("name", NAMES)
def test_every_layer_declares_roles(name, compose_raw):
    ffn = layer_of(name, compose_raw)
    options = [ffn, *([replace(ffn, glu=True)] if hasattr(ffn, "glu") else [])]
    for one in options:
        assert not list(undeclared(made(config(one))))
