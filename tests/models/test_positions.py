"""Every conf/positions/*.yaml: new positions are checked without a new test. And each by itself."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from experiments.config.hydra_hints import choice_names
from experiments.config.nodes import make_node
from experiments.init.exported import exported_shape, exported_state
from experiments.models.attention.gqa import GQAConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.fused import Fused
from experiments.models.positions.alibi import ALiBi, slopes
from experiments.models.positions.nope import NoPE
from experiments.models.positions.positions import Positions, seen_at
from experiments.models.positions.rope import RoPE
from experiments.models.transformer import TransformerConfig
from experiments.points.planning import make_point
from tests.conftest import TINY
from tests.extending import follow
from tests.init.trunks import trunk_config
from tests.interchange.models import VOCABULARY, exported, vocabulary_in
from tests.rounding import assert_rounding

NAMES = [name for name in choice_names("positions") if name != "weights"]
CPU = torch.device("cpu")


@pytest.fixture
def positions(compose_raw):
    def make(name):
        return make_point(compose_raw("size=2", "budget=1e9", *TINY, f"positions={name}")
                          ).config.trunk.positions  # fmt: skip

    return make


def model(positions, **options):
    torch.manual_seed(3)
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
    sizes = {"d_model": 48, "d_head": 16, "vocab_size": 50, "seq_len": 24, "tie_head": True}
    ffns = (DenseConfig(), peer)
    return TransformerConfig(**{**sizes, **options}, ffns=ffns, positions=positions).build()


def exact(found, wanted):
    """To the rounding of float64."""
    bound = 1e-12 * float(wanted.detach().abs().max())
    torch.testing.assert_close(found, wanted, rtol=0, atol=bound)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_cache_gives_what_the_whole_text_gives(positions, name):
    """By chunks, one token at a time, and with documents."""
    tokens = torch.randint(0, 50, (2, 24))
    for end in (None, 7):
        made = model(positions(name), document_end=end).double().eval()
        whole, cache = made(tokens), made.new_cache()
        parts = [made(part, cache) for part in tokens.split([1, 9, 1, 13], dim=1)]
        assert_rounding(torch.cat(parts, 1), whole, n_blocks=2)  # angles are float32


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_a_logit_depends_on_the_distance_and_on_no_later_token(positions, name):
    """A text of two documents is each of them alone: nothing here is absolute."""
    made = model(positions(name), document_end=7).double().eval()
    first, second = torch.randint(8, 50, (2, 1, 12))
    first[0, -1] = 7
    both = made(torch.cat([first, second], 1))
    exact(both[:, :12], made(first))
    assert_rounding(both[:, 12:], made(second), n_blocks=2)  # angles are float32


@pytest.mark.parametrize("name", NAMES)
def test_the_fused_trunk_gives_the_losses_and_gradients_of_the_model(positions, name):
    own = positions(name)
    made, tokens = model(own), torch.randint(0, 50, (2, 25))
    fused = Fused(made)
    biased = own.bias(3, 4, 4, CPU) is not None
    assert ("attention 0" in fused.eager) == biased
    loss, _ = fused.losses(tokens[:, :-1], tokens[:, 1:])
    loss.backward()
    gradients = [p.grad.clone() for p in made.parameters()]
    whole = model(own).double()
    expected = F.cross_entropy(whole(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    expected.backward()
    assert_rounding(loss.double(), expected, n_blocks=2)
    # there and back; the gradients of some are small sums of large addends
    found, wanted = (torch.cat([g.flatten().double() for g in some]) for some in
                     (gradients, [p.grad for p in whole.parameters()]))  # fmt: skip
    assert_rounding(found, wanted, n_blocks=4)


@pytest.mark.parametrize("name", NAMES)
def test_an_export_says_the_same_and_is_read_back(positions, name, tmp_path):
    """Writing one loads it by transformers, by the source of its own, and compares the logits."""
    own = positions(name)
    made = model(own, vocab_size=VOCABULARY).eval()
    exported(made, tmp_path / "hf", vocabulary_in(tmp_path / "cache"))
    shape = exported_shape(tmp_path / "hf")
    assert shape.positions == make_node(own)
    again = trunk_config(shape, 24).build()
    again.load_state_dict(exported_state(tmp_path / "hf", shape))
    tokens = torch.randint(0, 50, (1, 24))
    assert torch.equal(again.eval()(tokens), made(tokens))


def test_rotary_scores_against_float64():
    """q_i k_j by the formula of the paper, pair by pair."""
    d, n = 8, 6
    q, k = np.random.default_rng(1).normal(size=(2, n, d))
    angles = RoPE(base=100.0).angles(torch.arange(n), d)
    for i in range(n):
        for j in range(n):
            score = 0.0
            for pair in range(d // 2):
                turn = (i - j) * 100.0 ** (-2 * pair / d)
                rotation = np.array([[math.cos(turn), -math.sin(turn)],
                                     [math.sin(turn), math.cos(turn)]])  # fmt: skip
                both = [pair, pair + d // 2]
                score += (rotation @ q[i, both]) @ k[j, both]
            found = _turned(q[i], angles[i]) @ _turned(k[j], angles[j])
            assert abs(found - score) < 1e-5


def _turned(x, angles):
    cos, sin = np.cos(angles.numpy()), np.sin(angles.numpy())
    left, right = np.split(x, 2)
    return np.concatenate([left * cos - right * sin, left * sin + right * cos])


def test_slopes_are_those_of_the_paper():
    """§3: for 8 heads 1/2, 1/4 ... 1/256; of 12, those of 8 and every second one of 16's."""
    assert slopes(8) == [2.0**-i for i in range(1, 9)]
    assert slopes(12) == slopes(8) + slopes(16)[0:8:2]
    assert slopes(3) == [2.0**-4, 2.0**-8, 2.0**-2]
    assert slopes(1) == [2.0**-8]


def test_alibi_against_attention_written_out_in_float64():
    made = model(ALiBi(), attention=GQAConfig(n_kv_heads=1)).double().eval()
    attention = made.blocks[0].attention
    x = torch.randn(1, 10, 48, dtype=torch.float64)
    found = attention(x, made.seen(torch.zeros(1, 10, dtype=torch.int64)))[0]
    heads = (x[0] @ attention.qkv.weight.T).detach().numpy().reshape(10, 5, 16)
    expected = np.zeros((10, 3, 16))
    for h, slope in enumerate((2.0**-4, 2.0**-8, 2.0**-2)):
        for i in range(10):
            scores = [heads[i, h] @ heads[j, 3] / 4 - slope * (i - j) for j in range(i + 1)]
            weights = np.exp(scores) / np.exp(scores).sum()
            expected[i, h] = sum(w * heads[j, 4] for j, w in enumerate(weights))
    written = torch.from_numpy(expected.reshape(10, 48)) @ attention.out.weight.T
    exact(found, written)


def test_without_positions_a_bag_of_the_earlier_tokens_is_seen():
    """The last logit of one attention block is the same for any order of the tokens before."""
    made = model(NoPE()).double().eval()
    x = torch.randn(1, 8, 48, dtype=torch.float64)
    other = torch.cat([x[:, torch.randperm(7)], x[:, 7:]], 1)
    seen = made.seen(torch.zeros(1, 8, dtype=torch.int64))
    attention = made.blocks[0].attention
    exact(attention(x, seen)[:, 7], attention(other, seen)[:, 7])


@pytest.mark.parametrize("floating", [False, True])
def test_a_bias_keeps_the_mask(floating):
    """None: all up to itself; a mask of one's own; what is added to scores."""
    places = torch.arange(3, 5)
    assert seen_at(Positions(), places, 5, (2, 8), None) == (None, None)
    causal = seen_at(ALiBi(), places, 5, (2, 8), None).mask
    assert causal.shape == (1, 2, 2, 5)
    assert torch.isinf(causal[0, :, 0]).tolist() == [[False] * 4 + [True]] * 2
    mask = torch.tensor([[True, False, True, True, False], [True] * 5])[None, None]
    given = torch.where(mask, 0.0, -torch.inf) if floating else mask
    own = seen_at(ALiBi(), places, 5, (2, 8), given).mask
    assert torch.equal(torch.isinf(own), (~mask).expand(1, 2, 2, 5))
    assert own[0, 1, 1].tolist() == [-slopes(2)[1] * (4 - j) for j in range(5)]


@pytest.mark.night
def test_the_how_to_is_followed(tmp_path):
    follow("Positions of a token", tmp_path)
