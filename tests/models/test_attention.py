"""Every conf/attention/*.yaml: a new one is checked without a new test. And each by itself."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from experiments.config.hydra_hints import choice_names
from experiments.config.nodes import make_node
from experiments.init.exported import exported_shape, exported_state
from experiments.models.attention.gqa import GQAConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.none import NoneConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import Fused
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.extending import follow
from tests.init.trunks import trunk_config
from tests.interchange.models import VOCABULARY, exported, perturbed, vocabulary_in
from tests.rounding import assert_rounding

NAMES = [name for name in choice_names("attention") if name != "weights"]


@pytest.fixture
def attention(compose_raw):
    def make(name):
        raw = compose_raw("size=2", "budget=1e9", *TINY, f"attention={name}")
        return make_point(raw).config.trunk.attention

    return make


def config(attention, **options):
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
    sizes = {"d_model": 48, "d_head": 16, "vocab_size": VOCABULARY, "seq_len": 24}
    ffns = (DenseConfig(), peer)
    given = {**sizes, "tie_head": False, "ffns": ffns, **options}
    return TransformerConfig(attention=attention, **given)


def model(attention, **options):
    torch.manual_seed(3)
    return perturbed(config(attention, **options).build())


@pytest.mark.parametrize("name", NAMES)
def test_what_is_counted(attention, name):
    """All parameters; of FLOPs, the matrix products that torch sees, on the meta device."""
    own = attention(name)
    assert config(own).cost().n_params == sum(p.numel() for p in model(own).parameters())
    alone = config(own, ffns=(NoneConfig(),) * 2)
    made = model(own, ffns=(NoneConfig(),) * 2)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        made(torch.zeros(1, 24, dtype=torch.int64))
    terms = alone.cost().terms
    context = 2 * 2 * 2 * 24 * 24 * 48  # two blocks, two products, all pairs of positions
    assert counter.get_total_flops() - context == 24 * sum(
        term.flops for term in terms if term.seen_by_torch
    )


@pytest.mark.parametrize("name", NAMES)
def test_no_position_sees_a_later_one(attention, name):
    made = model(attention(name)).double().eval()
    tokens = torch.randint(0, 50, (1, 24))
    x = torch.randn(1, 24, 48, dtype=torch.float64, requires_grad=True)
    y = made.blocks[0].attention(x, made.seen(tokens))
    y[:, :8].square().sum().backward()
    assert x.grad[:, 8:].abs().max() == 0
    assert x.grad[:, :8].abs().min() > 0


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_cache_gives_what_the_whole_text_gives(attention, name):
    tokens = torch.randint(0, 50, (2, 24))
    made = model(attention(name), document_end=7).double().eval()
    whole, cache = made(tokens), made.new_cache()
    parts = [made(part, cache) for part in tokens.split([1, 9, 1, 13], dim=1)]
    assert_rounding(torch.cat(parts, 1), whole, n_blocks=2)  # angles are float32


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_half_is_the_half_or_is_named(attention, name):
    made, tokens = model(attention(name)), torch.randint(0, 50, (2, 24))
    fused = Fused(made)
    why = made.blocks[0].attention.why_not_fused()
    assert fused.eager.get("attention 0") == why
    exact = model(attention(name)).double()
    assert_rounding(fused.logits(tokens).double(), exact(tokens), n_blocks=2)


@pytest.mark.parametrize("name", NAMES)
def test_what_writes_to_the_stream_is_scaled_with_depth(attention, name):
    """Without it, attention adds nothing."""
    made = model(attention(name))
    block = made.blocks[0].attention
    for weight in block.output_weights():
        nn.init.zeros_(weight)
    seen = made.seen(torch.zeros(1, 8, dtype=torch.int64))
    assert block(torch.randn(1, 8, 48), seen).abs().max() == 0


@pytest.mark.parametrize("name", NAMES)
def test_an_export_says_the_same_and_is_read_back(attention, name, tmp_path):
    """Writing one loads it by transformers, by the source of its own, and compares the logits."""
    own = attention(name)
    made = model(own).eval()
    exported(made, tmp_path / "hf", vocabulary_in(tmp_path / "cache"))
    shape = exported_shape(tmp_path / "hf")
    assert shape.attention == make_node(own.explicit(3))
    again = trunk_config(shape, 24).build()
    again.load_state_dict(exported_state(tmp_path / "hf", shape))
    tokens = torch.randint(0, 50, (1, 24))
    assert torch.equal(again.eval()(tokens), made(tokens))


def test_grouped_heads_are_whole_ones_with_keys_and_values_repeated():
    """Ainslie 2023, §2.1: each head of keys and values serves as many of queries, side by side."""
    grouped = GQAConfig(n_kv_heads=2).build(64, 16, 1.0).double()
    whole = GQAConfig().build(64, 16, 1.0).double()
    query, key, value = grouped.qkv.weight.detach().split([64, 32, 32])
    each = [w.view(2, 16, 64).repeat_interleave(2, dim=0).flatten(0, 1) for w in (key, value)]
    whole.qkv.weight.data = torch.cat([query, *each])
    whole.out.weight = grouped.out.weight
    made = model(GQAConfig())
    x, seen = torch.randn(2, 10, 64).double(), made.seen(torch.zeros(2, 10, dtype=torch.int64))
    found, wanted = grouped(x, seen).detach(), whole(x, seen).detach()
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12 * float(wanted.abs().max()))


def test_heads_that_keys_do_not_divide_are_refused():
    message = r"trunk\.attention\.n_kv_heads=2 must divide the 3 heads of d_model=48"
    with pytest.raises(ValueError, match=message):
        config(GQAConfig(n_kv_heads=2))


@pytest.mark.night
def test_the_how_to_is_followed(tmp_path):
    follow("An attention", tmp_path)
