"""Layers that look at ids, as transformers calls them: caches, padding, beams, and refusals."""

import copy

import pytest
import torch

from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.engram import EngramConfig
from experiments.models.ffn.stem import StemConfig
from experiments.models.transformer import TransformerConfig
from tests.interchange.models import VOCABULARY, exported, loaded, perturbed

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("hub_modules")
ENGRAM = EngramConfig(n_experts=240, n_hashes=2, d_row=8, max_order=4)
EXACT = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(scope="module")
def pair(tmp_path_factory, vocabulary):
    """A model of both layers, one of them beside another, and what transformers loads, float64."""
    folder = tmp_path_factory.mktemp("ids") / "out"
    beside = BesideConfig(frozen=DenseConfig(), trained=ENGRAM)
    ffns = (ENGRAM, StemConfig(vocab_size=VOCABULARY), beside)
    sizes = {"d_model": 32, "d_head": 8, "vocab_size": VOCABULARY, "seq_len": 64}
    torch.manual_seed(0)
    model = perturbed(TransformerConfig(**sizes, ffns=ffns, tie_head=False).build().eval())
    exported(model, folder, vocabulary, name="engram")
    return model.double(), loaded(folder).double()


def text(n, batch=1):
    return torch.randint(4, VOCABULARY, (batch, n))


@torch.no_grad()
def test_logits_are_ours_with_a_cache_and_without(pair):
    ours, theirs = pair
    tokens = text(20, batch=2)
    wanted = ours(tokens)
    # rotary angles are float32 in both, and made by other operations
    torch.testing.assert_close(theirs(tokens).logits, wanted, rtol=0, atol=1e-4)
    whole = theirs(tokens, use_cache=False).logits
    of_config = transformers.DynamicCache(config=theirs.config)
    for cache in (None, transformers.DynamicCache(), of_config):
        parts = []
        for part in tokens.split([3, 1, 1, 1, 14], dim=1):
            found = theirs(part, past_key_values=cache, use_cache=True)
            cache = found.get("cache", found.get("past_key_values"))
            parts.append(found.logits)
        torch.testing.assert_close(torch.cat(parts, dim=1), whole, **EXACT)


@torch.no_grad()
def test_padding_before_a_text_is_not_read(pair):
    _, theirs = pair
    short, long = text(7), text(12)
    padded = torch.cat([torch.cat([text(5), short], dim=1), long])
    mask = torch.ones_like(padded)
    mask[0, :5] = 0
    places = (mask.cumsum(1) - 1).clamp(min=0)
    both = theirs(padded, attention_mask=mask, position_ids=places).logits
    torch.testing.assert_close(both[0, 5:], theirs(short).logits[0], **EXACT)
    torch.testing.assert_close(both[1], theirs(long).logits[0], **EXACT)
    how = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = theirs.generate(padded, attention_mask=mask, **how)[:, 12:]
    for row, alone in zip(together, (short, long), strict=True):
        assert torch.equal(row, theirs.generate(alone, **how)[0, alone.shape[1] :])


@torch.no_grad()
@pytest.mark.parametrize("beams", [1, 3])
def test_generation_with_a_cache_is_that_without(pair, beams):
    _, theirs = pair
    how = {"max_new_tokens": 16, "do_sample": False, "num_beams": beams, "eos_token_id": None}
    tokens = text(6, batch=2)
    found = [theirs.generate(tokens, use_cache=use, pad_token_id=0, **how) for use in (True, False)]
    assert torch.equal(*found)


@torch.no_grad()
def test_a_cache_that_is_cut_back_goes_on_as_a_shorter_text(pair):
    """As assisted generation does with drafts that it throws away."""
    _, theirs = pair
    tokens = text(14)
    cache = transformers.DynamicCache(config=theirs.config)
    theirs(torch.cat([tokens[:, :9], text(4)], dim=1), past_key_values=cache)
    cache.crop(-4)
    found = theirs(tokens[:, 9:], past_key_values=copy.deepcopy(cache)).logits
    torch.testing.assert_close(found, theirs(tokens).logits[:, 9:], **EXACT)


def test_what_does_not_say_the_ids_is_refused_in_a_line(pair):
    _, theirs = pair
    tokens = text(5)
    with pytest.raises(ValueError, match="inputs_embeds doesn't say; give input_ids"):
        theirs(inputs_embeds=theirs.embedding(tokens))
    with pytest.raises(ValueError, match="four dimensions doesn't say which are padding"):
        theirs(tokens, attention_mask=torch.ones(1, 1, 5, 5, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"one fixed size.*use DynamicCache"):
        theirs.generate(tokens, cache_implementation="static", max_new_tokens=2)
