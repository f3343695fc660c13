"""Every conf/residual/*.yaml: a new form is checked without a new test. And each by itself."""

from dataclasses import dataclass

import pytest
import torch

from experiments.config.hydra_hints import choice_names
from experiments.config.nodes import make_node
from experiments.init.exported import exported_shape, exported_state
from experiments.init.how._blocks import ffn_inputs
from experiments.inspection.contributions import contributions
from experiments.inspection.interface import inspected_layers
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.folded import folded
from experiments.models.fused import Fused
from experiments.models.norms.norm import NormConfig
from experiments.models.parametrization import Base
from experiments.models.recomputed import Recomputed
from experiments.models.residuals.parallel import Parallel
from experiments.models.residuals.pre_norm import PreNorm
from experiments.models.residuals.residual import Block
from experiments.models.residuals.sandwich import Sandwich
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.extending import follow
from tests.init.trunks import trunk_config
from tests.interchange.models import VOCABULARY, exported, perturbed, vocabulary_in
from tests.rounding import assert_rounding

NAMES = [name for name in choice_names("residual") if name != "weights"]
TOKENS = torch.randint(0, 50, (2, 24), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def residual(compose_raw):
    def make(name):
        raw = compose_raw("size=2", "budget=1e9", *TINY, f"residual={name}")
        return make_point(raw).config.trunk.residual

    return make


def config(residual, **options):
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
    sizes = {"d_model": 48, "d_head": 16, "vocab_size": VOCABULARY, "seq_len": 24}
    given = {**sizes, "tie_head": False, "ffns": (DenseConfig(), peer), **options}
    return TransformerConfig(residual=residual, **given)


def model(residual, **options):
    """In float64, with nothing left at a value that it starts with."""
    torch.manual_seed(3)
    return perturbed(config(residual, **options).build()).double().eval()


@pytest.mark.parametrize("name", NAMES)
def test_its_parameters_are_those_that_are_counted(residual, name):
    made = model(residual(name))
    assert made.config.cost().n_params == sum(p.numel() for p in made.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_no_position_sees_a_later_one(residual, name):
    made, x = model(residual(name)), torch.randn(1, 24, 48, dtype=torch.float64)
    x.requires_grad_()
    made.blocks[0](x, made.seen(TOKENS[:1]))[:, :8].square().sum().backward()
    assert x.grad[:, 8:].abs().max() == 0
    assert x.grad[:, :8].abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_cache_gives_what_the_whole_text_gives(residual, name):
    made = model(residual(name), document_end=7)
    whole, cache = made(TOKENS), made.new_cache()
    parts = [made(part, cache) for part in TOKENS.split([1, 9, 1, 13], dim=1)]
    assert_rounding(torch.cat(parts, 1), whole, n_blocks=2)  # angles are float32


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_trunk_computes_it_or_names_it(residual, name):
    made = model(residual(name)).float()
    fused, why = Fused(made), made.config.residual.why_not_fused()
    halves = ("attention 0", "ffn 0", "attention 1", "ffn 1")
    assert fused.eager == ({} if why is None else dict.fromkeys(halves, why))
    if why is None:
        assert_rounding(fused.logits(TOKENS).double(), model(residual(name))(TOKENS), n_blocks=2)
    else:
        assert torch.equal(fused.logits(TOKENS), made(TOKENS))


@pytest.mark.parametrize("name", NAMES)
def test_halves_that_are_computed_again_change_nothing(residual, name):
    made = model(residual(name)).train()
    logits, again = made(TOKENS), Recomputed(made)
    assert torch.equal(again.logits(TOKENS), logits)
    assert all(attends for attends, _ in again._again)
    wanted = torch.autograd.grad(logits.square().sum(), [*made.parameters()])
    found = torch.autograd.grad(again.logits(TOKENS).square().sum(), [*made.parameters()])
    assert all(map(torch.equal, found, wanted))


@dataclass(frozen=True, kw_only=True)
class _PostNorm(PreNorm):
    """norm(x + attention(x)), norm(x + ffn(x)): Vaswani 2017, arXiv:1706.03762, §3.1."""

    adds_outputs = False

    def attention_half(self, block, x, seen, past):
        return block.normed("attention_norm", block.add(x, block.attention(x, seen, past)))

    def ffn_input(self, block, x, attended):
        return attended

    def ffn_half(self, block, x, attended, tokens):
        return block.normed("ffn_norm", super().ffn_half(block, x, attended, tokens))


@pytest.mark.parametrize("name", [*NAMES, _PostNorm()])
@torch.no_grad()
def test_what_is_added_is_proportional_to_what_is_written_by(residual, name, monkeypatch):
    """What Block.add is given: a form may norm the sum."""
    made, added, add = model(name if name == _PostNorm() else residual(name)), [], Block.add
    block, seen = made.blocks[0], made.seen(TOKENS[:1])
    monkeypatch.setattr(Block, "add", lambda *given: added.append(given[2]) or add(*given))
    x = torch.randn(1, 24, 48, dtype=torch.float64)
    block.residual.attention_half(block, x, seen, None)
    for weight in block.residual.written(block):
        weight *= 3
    block.residual.attention_half(block, x, seen, None)
    before, grown = added
    torch.testing.assert_close(grown, 3 * before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_multipliers_of_width_and_depth_are_put_into_the_weights(residual, name):
    base = Base(d_model=24, d_head=8, n_layers=8)
    made = model(residual(name), base=base)
    plain = folded(made)
    assert plain.config.base is None
    assert_rounding(plain(TOKENS), made(TOKENS), n_blocks=2)


@pytest.mark.parametrize("name", NAMES)
def test_inputs_of_a_layer_are_those_that_it_is_called_with(residual, name):
    made, heard = model(residual(name)), []
    made.blocks[1].ffn.register_forward_pre_hook(lambda module, inputs: heard.append(inputs[0]))
    made(TOKENS)
    assert torch.equal(ffn_inputs(made, TOKENS, 1), heard[0].flatten(0, 1))


@pytest.mark.parametrize("name", NAMES)
def test_what_experts_add_to_a_logit_is_known_or_refused(residual, name):
    made = model(residual(name)).float()
    layers = [layer for layer in inspected_layers(made) if layer.block == 1]
    if made.config.residual.adds_outputs:
        (found,) = contributions(made, layers, TOKENS[0])
        parts = found.of_slots.sum(-1)
        torch.testing.assert_close(parts, found.layer, rtol=1e-4, atol=1e-4)  # float32 outputs
    else:
        with pytest.raises(ValueError, match="norms what a layer writes"):
            contributions(made, layers, TOKENS[0])


@pytest.mark.parametrize("name", NAMES)
def test_an_export_says_the_same_and_is_read_back(residual, name, tmp_path):
    """Writing one loads it by transformers, by the source of its own, and compares the logits."""
    made = model(residual(name)).float()
    exported(made, tmp_path / "hf", vocabulary_in(tmp_path / "cache"))
    shape = exported_shape(tmp_path / "hf")
    assert shape.residual == make_node(residual(name))
    again = trunk_config(shape, 24).build()
    again.load_state_dict(exported_state(tmp_path / "hf", shape))
    assert torch.equal(again.eval()(TOKENS), made(TOKENS))


def _pre_norm(x, norms, attention, ffn):
    x = x + attention(norms["attention_norm"](x))
    return x + ffn(norms["ffn_norm"](x))


def _parallel(x, norms, attention, ffn):
    y = norms["shared_norm"](x)
    return x + attention(y) + ffn(y)


def _sandwich(x, norms, attention, ffn):
    x = x + norms["attention_after"](attention(norms["attention_norm"](x)))
    return x + norms["ffn_after"](ffn(norms["ffn_norm"](x)))


def _post_norm(x, norms, attention, ffn):
    x = norms["attention_norm"](x + attention(x))
    return norms["ffn_norm"](x + ffn(x))


@pytest.mark.parametrize(
    ("form", "equation"),
    [
        (PreNorm(), _pre_norm),
        (Parallel(), _parallel),
        (Sandwich(), _sandwich),
        (_PostNorm(), _post_norm),
    ],
)
def test_forms_by_their_equations_in_float64(form, equation):
    made = model(form)
    block, seen = made.blocks[0], made.seen(TOKENS)
    x = torch.randn(2, 24, 48, dtype=torch.float64)

    def norm(weight):
        eps = torch.finfo(torch.float64).eps
        return lambda y: y / (y.square().mean(-1, keepdim=True) + eps).sqrt() * weight

    norms = {name: norm(block.norm(name).weight) for name in form.norms}
    wanted = equation(x, norms, lambda y: block.attention(y, seen), block.ffn)
    torch.testing.assert_close(block(x, seen), wanted, rtol=1e-12, atol=1e-12)


def test_norms_of_outputs_start_as_what_writes_to_the_stream():
    """Pangu Ultra, arXiv:2504.07866, §2: by the root of the depth; here of its halves."""
    block = config(Sandwich()).build().blocks[0]
    assert block.norm("ffn_after").weight.tolist() == pytest.approx([0.5] * 48)
    assert block.norm("ffn_norm").weight.tolist() == [1.0] * 48


def test_norms_are_in_the_planned_memory(compose_raw):
    def activations(name):
        raw = compose_raw("size=2", "budget=1e9", *TINY, f"residual={name}")
        return make_point(raw).plan.memory.activations

    assert activations("parallel") == activations("pre_norm") < activations("sandwich")


class _Unweighted(NormConfig):
    """A norm without weights."""

    def build(self, d_model):
        return torch.nn.Identity()

    def n_params(self, d_model):
        return 0


def test_a_depth_multiplier_that_no_weight_can_have_is_refused():
    base = Base(d_model=48, d_head=16, n_layers=8)
    made = config(Sandwich(), base=base, norm=_Unweighted()).build()
    message = r"_Unweighted has no weights to have the depth's multiplier 4 in, as Sandwich would"
    with pytest.raises(ValueError, match=message):
        folded(made)


@pytest.mark.night
def test_the_how_to_is_followed(tmp_path):
    follow("A residual path", tmp_path)
