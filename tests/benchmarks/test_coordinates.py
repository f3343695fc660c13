"""Coordinate check of every conf/model/*.yaml: a new layer is checked without a new test."""

from dataclasses import asdict, dataclass, replace
from itertools import pairwise

import pytest
import torch

from experiments.bench import main
from experiments.benchmarks.coordinates import Subject, check_coordinates, made_text
from experiments.benchmarks.core.loop import OPTIM
from experiments.budget.costs import FFNConfig
from experiments.config.hydra_hints import choice_names
from experiments.config.reading import build
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.ffn.sgatlin import SgatlinConfig
from experiments.models.ffn.ultramem import UltraMemConfig
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig
from experiments.optim.lion import LionConfig
from experiments.optim.muon import MuonConfig

MUON = MuonConfig(**asdict(OPTIM))
LION = LionConfig(**asdict(OPTIM), lion_lr=0.2, lion_beta1=0.95, lion_beta2=0.98)
NAMES = [name for name in choice_names("model") if name != "weights"]
# fewer experts than the yaml has, so that five widths fit; of other layers with experts 16
SMALL = {
    "peer_narrow": {"n_experts": 256, "n_heads": 2, "top_k": 8, "d_key": 16},
    "moe": {"n_experts": 8},
    "peer": {"n_experts": 256, "n_heads": 2, "top_k": 8, "d_key": 16},
    "pkm": {"n_experts": 256, "n_heads": 2, "top_k": 8, "d_key": 16},
    "ultramem": {"n_experts": 256, "n_heads": 2, "top_k": 8, "d_key": 16},
    "sgatlin": {"n_experts": 256, "n_channels": 4, "top_k": 4, "d_key": 16},
    "stem": {"vocab_size": 16},
    "engram": {"n_experts": 256, "n_hashes": 2, "d_row": 16},
}
LR, BASE = 2e-3, 64
PKM, PLAIN = PKMConfig(**SMALL["pkm"]), PEERConfig(**SMALL["peer"])
SGATLIN = SgatlinConfig(**SMALL["sgatlin"])
ULTRAMEM = UltraMemConfig(
    **SMALL["ultramem"], query_norm="none", key_norm="rms", score="raw", share_keys=False,
    heads_per_query=2, core_start="uniform", value_factor=0.5,
)  # fmt: skip
VARIANTS = {
    "dense, gated": DenseConfig(glu=True, width_factor=2.0),
    "dense, ReLU": DenseConfig(activation="relu"),
    "fine, gated": MoEConfig(
        n_experts=16, routing="token_choice", top_k=7, gate="sigmoid", granularity=8.0,
        n_shared_experts=1, glu=True,
    ),
    "pkm, layer norm": replace(PKM, query_norm="layer"),
    "pkm, keys per head": replace(PKM, share_keys=False),
    "pkm, from zero": replace(PKM, value_init="zero"),
    "peer, layer norm": replace(PLAIN, query_norm="layer"),
    "peer, no norm": replace(PLAIN, query_norm="none"),
    "peer, two numbers of keys": replace(PLAIN, n_first_keys=32),
    "peer, ReLU": replace(PLAIN, activation="relu"),
    "peer, queries in two factors": replace(PLAIN, d_query_rank=8),
    "peer, experts of heads": replace(PLAIN, n_experts=512, share_experts=False),
    "peer, output gate": replace(PLAIN, output_gate=True),
    "peer, MLP beside": replace(PLAIN, shared_width_factor=1.0),
}  # fmt: skip


def subject_of(ffn, parametrization="mup", optim=OPTIM):
    """Of a width: two blocks of the layer, under that parametrization."""

    def subject(d_model):
        model = TransformerConfig(
            d_model=d_model,
            d_head=16,
            vocab_size=16,
            seq_len=16,
            tie_head=False,
            ffns=(ffn, ffn),
            base=None if parametrization == "sp" else Base(d_model=BASE, d_head=16),
        )
        lr = LR * (BASE / d_model) ** 0.5 if parametrization == "sp" else LR
        return Subject(model=model, lr=lr, optim=optim)

    return subject


@pytest.fixture
def subjects(compose_raw):
    """subjects("peer", ...)(d_model), of the layer of a yaml."""

    def of(name, parametrization="mup", optim=OPTIM):
        node = compose_raw(f"model={name}")["model"]
        default = {"n_experts": 16} if "n_experts" in node else {}
        ffn = build({**node, **SMALL.get(name, default)}, "model")
        return subject_of(ffn, parametrization, optim)

    return of


def _at_night(name):
    """But the layer that the project is about, and none; the others take up to half a minute."""
    return [] if name in ("peer", "none") else [pytest.mark.night]


def not_flat(coordinates):
    return [c for c in coordinates if not c.is_flat]


@pytest.mark.parametrize("name", [pytest.param(n, marks=_at_night(n)) for n in NAMES])
def test_no_size_depends_on_the_width_under_mup(subjects, name):
    """But the spread of expert choice's gates: of three seeds its slopes are up to 0.18. It is of
    the few tokens that experts chose, so its noise is large; whether it is noise alone is open.
    And sgatlin's outputs, by what flows back (below): up to 0.44. So UltraMem's changes: up to
    0.22. Engram's changes: up to 0.17.
    """
    found = not_flat(check_coordinates(subjects(name), seeds=(0, 1, 2)))
    if name == "sgatlin":
        assert all(c.slope < 0.6 and c.where in ("layer 0", "layer 1", "block 1") for c in found)
        return
    if name == "ultramem":
        assert all(abs(c.slope) < 0.3 for c in found)
        return
    if name == "engram":
        assert all(c.slope < 0.3 and c.where in ("layer 0", "layer 1") for c in found)
        return
    assert not [c for c in found if (name, c.what) != ("moe", "spread")]


@pytest.mark.night
@pytest.mark.parametrize(
    ("name", "optim"),
    [("dense", MUON), ("moe_fine", MUON), ("dense", LION)],
    ids=["dense-muon", "moe_fine-muon", "dense-lion"],
)
def test_nor_with_another_optimizer(subjects, name, optim):
    assert not not_flat(check_coordinates(subjects(name, optim=optim), seeds=(0, 1, 2)))


@pytest.mark.night
@pytest.mark.parametrize("name", VARIANTS)
def test_nor_in_a_layer_s_variants(name):
    subject = subject_of(VARIANTS[name])
    found = check_coordinates(subject, (32, 128, 512), seeds=(0, 1, 2), steps=(3, 10))
    assert not not_flat(found)


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A layer's config; nothing flows back to the layer's input."""

    own: FFNConfig

    def cost(self, d_model):
        return self.own.cost(d_model)

    def build(self, d_model):
        layer = self.own.build(d_model)
        layer.register_forward_pre_hook(lambda module, inputs: (inputs[0].detach(),))
        return layer


@pytest.mark.night
@pytest.mark.parametrize(
    ("config", "variant"),
    [
        (PLAIN, {"glu": True}),
        (PLAIN, {"glu": True, "value_init": "zero"}),
        (PLAIN, {"score": "sigmoid"}),
        (SGATLIN, {}),
        (SGATLIN, {"value_init": "zero"}),
        (ULTRAMEM, {}),
    ],
)
def test_what_flows_back_alone_grows_with_the_width(config, variant):
    """docs/parametrization.md says why. So its own rates and initial values are right; a wrong one
    of any of its tensors would be seen here.
    """
    ffn = Cut(own=replace(config, **variant))
    assert not not_flat(
        check_coordinates(subject_of(ffn), (32, 128, 512), seeds=(0, 1, 2), steps=(3, 10))
    )


@pytest.mark.parametrize("name", ["dense", "peer"])
def test_widths_make_no_difference_under_mup_and_do_in_sp(subjects, name):
    """Quick version, where noise is larger: what learns has slopes of a half in sp."""

    def slopes(parametrization):
        found = check_coordinates(
            subjects(name, parametrization), (32, 128), seeds=(0, 1), steps=(3,)
        )
        return {(c.what, c.where): abs(c.slope) for c in found if c.step == 3}

    assert max(slopes("mup").values()) < 0.2
    in_sp = slopes("sp")
    assert in_sp["change", "head"] > 0.3
    assert in_sp["change", "block 0"] > 0.2
    assert in_sp["output", "embedding"] > 0.4
    if name == "peer":
        assert in_sp["change", "layer 0"] > 0.4


def test_the_made_text_is_learnable_and_the_same_for_a_seed():
    text = made_text(3)
    assert torch.equal(text, made_text(3))
    follow = {}
    for row in text.tolist():
        for word, after in pairwise(row):
            follow.setdefault(word, set()).add(after)
    assert max(map(len, follow.values())) <= 4


def test_the_command_prints_a_table_and_draws_it(tmp_path, capsys):
    small = ("n_experts=64", "model.top_k=4", "model.n_heads=2", "model.d_key=8")
    how = ("optim.parametrization=mup", "ladder.d_head=8", "ladder.lr_d_model=16")
    figure = tmp_path / "coordinates.png"
    options = ["--widths", "16,32", "--seeds", "1", "--figure", str(figure)]
    main(["coordinates", *options, "model=peer", *small, *how])
    printed = capsys.readouterr().out
    assert "spread" in printed
    assert "slopes are 0.1 or more in size" in printed
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["--widths", "32"], "two widths or more"),
        (["--widths", "32,32"], "--widths 32,32 names 32 twice; name it once"),
        (["--seeds", "0"], "--seeds"),
        (["peer"], "peer"),
        (["model=dense", "optim.table_lr=3"], "optim.table_lr=3 has no effect on model=dense"),
    ],
)
def test_a_command_that_can_not_be_is_refused(words, why, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["coordinates", *words])
    assert stopped.value.code == 2
    assert why in capsys.readouterr().err
