"""A model's pass by fused operators, against the same model as it is written."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.config.hydra_hints import choice_names
from experiments.config.reading import build
from experiments.kernels.trunk_passes import load_trunk
from experiments.models.attention.gqa import GQAConfig
from experiments.models.documents import document_mask, first_seen
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import Dense, DenseConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import Fused
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.parametrization import Base
from experiments.models.positions.rope import RoPE
from experiments.models.transformer import TransformerConfig
from tests.rounding import assert_rounding, relative

pytestmark = pytest.mark.skipif(load_trunk() is None, reason="no C++ compiler")

SMALL_PEER = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
GLU = DenseConfig(glu=True, width_factor=8 / 3, activation="silu")


def _config(*ffns, **options):
    defaults = {"d_model": 32, "d_head": 16, "vocab_size": 50, "seq_len": 24, "tie_head": False}
    return TransformerConfig(**{**defaults, **options, "ffns": ffns or (DenseConfig(), GLU)})


def _batch(model, seq=24, ignored=True):
    tokens, targets = torch.randint(0, model.config.vocab_size, (2, 3, seq)).unbind()
    if ignored:
        targets[0, 3:7] = -100
    return tokens, targets


def _eager(model, tokens, targets):
    logits = model(tokens).flatten(0, 1)
    each = F.cross_entropy(logits, targets.flatten(), reduction="none")
    return F.cross_entropy(logits, targets.flatten()), each.detach()


def _gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def _assert_same(model, tokens, targets):
    """Losses, logits and gradients; returns the parts that were eager."""
    fused, n = Fused(model), len(model.blocks)
    loss, each = fused.losses(tokens, targets)
    found = _gradients(model, loss)
    wanted_loss, wanted_each = _eager(model, tokens, targets)
    wanted = _gradients(model, wanted_loss)
    assert_rounding(loss, wanted_loss, n)
    assert_rounding(each, wanted_each, n)
    assert_rounding(fused.logits(tokens), model(tokens), n)
    for name, gradient in wanted.items():
        if gradient is None:
            assert found[name] is None, name
        else:
            off = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-6)
            assert off < relative(n), name
    return fused.eager


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"document_end": 3},
        {"attention": GQAConfig(n_kv_heads=1)},
        {"tie_head": True},
        {"trained_blocks": (1,)},
        {
            "d_head": 32,
            "positions": RoPE(base=500.0),
            "norm": RMSNormConfig(eps=1e-5),
            "vocab_size": 67,
        },
        {"base": Base(d_model=16, d_head=16, n_layers=None)},
        {"base": Base(d_model=16, d_head=16, n_layers=1)},
        {"base": Base(d_model=16, d_head=16, n_layers=1), "document_end": 3, "tie_head": True},
    ],
    ids=lambda o: "-".join(o) or "plain",
)
def test_every_option_of_the_trunk(options):
    model = _config(**options).build()
    assert _assert_same(model, *_batch(model)) == {}


@pytest.mark.parametrize("name", [n for n in choice_names("model") if n != "weights"])
def test_every_layer(name, compose_raw):
    ffn = build(compose_raw(f"model={name}", "ladder.vocab_size=270")["model"], "model")
    model = _config(DenseConfig(), ffn, vocab_size=270, document_end=3).build()
    model.eval()  # no load is counted between two passes
    assert set(_assert_same(model, *_batch(model))) <= {"ffn 1"}


@pytest.mark.parametrize(
    ("options", "eager", "why"),
    [
        ({"d_model": 40, "d_head": 40}, {"attention 0", "ffn 0", "head"}, "d_model=40 is no mul"),
        ({"d_head": 8}, {"attention 0"}, "d_head=8 is no multiple of 16 up to 128"),
        ({"d_model": 144, "d_head": 144}, {"attention 0"}, "d_head=144 is no multiple"),
        ({"lora_rank": 2}, {"attention 0", "ffn 0"}, "LoRALinear is not a plain linear map"),
    ],
)
def test_what_is_eager_is_named(options, eager, why):
    model = _config(DenseConfig(), **options).build()
    found = _assert_same(model, *_batch(model))
    assert set(found) == eager
    assert all(reason.startswith(why) for reason in found.values())
    described = Fused(model).describe()
    assert described.startswith(f"fused {load_trunk().level} (")
    assert why in described
    assert described.count("eager") == 1


def test_a_plain_trunk_is_described_by_its_level():
    assert Fused(_config().build()).describe() == f"fused {load_trunk().level}"


def test_a_layer_beside_a_dense_one():
    model = _config(BesideConfig(frozen=DenseConfig(), trained=SMALL_PEER), NoneConfig()).build()
    assert _assert_same(model, *_batch(model)) == {}


def test_weights_of_other_types_and_norms_of_other_kinds_are_named():
    model = _config(DenseConfig()).build().double()
    assert set(Fused(model).eager) == {"attention 0", "ffn 0", "head"}
    model = _config(DenseConfig()).build()
    model.blocks[0].ffn_norm = nn.LayerNorm(32)
    assert Fused(model).eager == {"ffn 0": "LayerNorm is not RMSNorm"}


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # tokens have no gradient
@pytest.mark.parametrize("kind", ["forward_pre", "forward", "full_backward_pre", "full_backward"])
@pytest.mark.parametrize(
    ("place", "eager"),
    [
        ("", {"attention 0", "ffn 0", "attention 1", "ffn 1", "head"}),
        ("embedding", set()),
        ("blocks.1", {"attention 1", "ffn 1"}),
        ("blocks.0.attention", {"attention 0"}),
        ("blocks.0.attention_norm", {"attention 0"}),
        ("blocks.0.attention.out", {"attention 0"}),
        ("blocks.1.ffn", {"ffn 1"}),
        ("blocks.1.ffn.w_gate", {"ffn 1"}),
        ("norm", {"head"}),
        ("head", {"head"}),
    ],
)
def test_a_hook_is_called_and_named(kind, place, eager):
    model, calls = _config().build(), []
    register = getattr(model.get_submodule(place), f"register_{kind}_hook")
    register(lambda *_: calls.append(kind))
    fused = Fused(model)
    assert fused.eager == dict.fromkeys(eager, "a hook wants to be called")
    fused.losses(*_batch(model))[0].backward()
    assert calls == [kind]


def test_sequences_of_two_lengths():
    model = _config(document_end=3).build()
    fused = Fused(model)
    for seq in (24, 7, 24, 1):
        tokens, targets = _batch(model, seq, ignored=False)
        assert_rounding(fused.losses(tokens, targets)[0], _eager(model, tokens, targets)[0], 2)


def test_scoring_then_training():
    """In inference mode angles are made that a backward pass reads."""
    model = _config().build()
    fused, batch = Fused(model), _batch(model)
    with torch.inference_mode():
        scored = fused.losses(*batch)[0]
    loss, _ = fused.losses(*batch)
    loss.backward()
    assert torch.equal(loss, scored)


@pytest.mark.parametrize("options", [{}, {"document_end": 3, "tie_head": True}, {"lora_rank": 2}])
def test_a_compiled_pass_is_one_graph_with_the_same_gradients(options):
    model = _config(**options).build()
    fused, batch = Fused(model), _batch(model)
    wanted = _gradients(model, fused.losses(*batch)[0])
    torch._dynamo.reset()
    compiled = torch.compile(fused.losses, backend="aot_eager", fullgraph=True, dynamic=False)
    found = _gradients(model, compiled(*batch)[0])
    for name, gradient in wanted.items():
        if gradient is not None:
            assert_rounding(found[name], gradient, 2)


def test_micro_batches_add_up():
    model = _config().build()
    tokens, targets = _batch(model, ignored=False)
    fused = Fused(model)
    whole = _gradients(model, fused.losses(tokens, targets)[0])
    model.zero_grad()
    for i in range(3):
        (fused.losses(tokens[i : i + 1], targets[i : i + 1])[0] / 3).backward()
    for name, p in model.named_parameters():
        assert_rounding(p.grad, whole[name], 2)


@pytest.mark.parametrize("options", [{}, {"lora_rank": 2}, {"d_head": 8}])
def test_autocast(options):
    """Fused and eager parts may follow each other; the residual stream is float32."""
    model = _config(**options).build()
    batch = _batch(model)
    exact = _gradients(model, _eager(model, *batch)[0])
    with torch.autocast("cpu", torch.bfloat16):
        loss = Fused(model).losses(*batch)[0]
    found = _gradients(model, loss)
    for name, gradient in exact.items():
        if gradient is not None:
            assert found[name].dtype == torch.float32
            assert (found[name] - gradient).norm() < 0.1 * gradient.norm() + 1e-6, name


def test_a_target_outside_the_vocabulary_is_refused():
    model = _config().build()
    tokens, targets = _batch(model)
    targets[1, 1] = 50
    with pytest.raises(IndexError, match="outside the vocabulary of 50 entries"):
        Fused(model).losses(tokens, targets)


def test_first_seen_is_the_document_mask_in_short():
    tokens = torch.randint(0, 5, (4, 30))
    mask = document_mask(tokens, 3)[:, 0]
    assert torch.equal(first_seen(tokens, 3), mask.int().argmax(-1).int())


class _Doubled(Dense):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * super().forward(x)


@dataclass(frozen=True, kw_only=True)
class _DoubledConfig(DenseConfig):
    def build(self, d_model: int) -> Dense:
        return _Doubled(d_model, self)


def test_a_subclass_s_own_forward_is_called():
    """It may compute something else than the layer that has a fused half."""
    model = _config(_DoubledConfig(), DenseConfig()).build()
    assert Fused(model).eager == {"ffn 0": "_Doubled has no fused form"}
