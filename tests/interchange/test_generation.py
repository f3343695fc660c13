"""Exports under transformers' ways to generate: beams, padding, caches and assistants."""

import functools

import pytest
import torch

from tests.interchange.models import VOCABULARY, built, exported, loaded

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("hub_modules")

LAYERS = ["dense", "dense_mixed", "moe_fine", "pkm", "peer", "alibi"]  # the first is native
N_NEW = 8
GREEDY = {"max_new_tokens": N_NEW, "min_new_tokens": N_NEW, "do_sample": False, "pad_token_id": 0}


@pytest.fixture(scope="module")
def read(tmp_path_factory, vocabulary):
    """read(name): the exported model as transformers reads it, once."""
    parent = tmp_path_factory.mktemp("exports")

    @functools.cache
    def get(name):
        exported(built(name), parent / name, vocabulary, name)
        return loaded(parent / name)

    return get


def prompts(*shape):
    return torch.randint(1, VOCABULARY, shape, generator=torch.Generator().manual_seed(0))


def padded(ids, n):
    """Ids with n of padding on the left, and their mask."""
    zeros = torch.zeros(len(ids), n, dtype=torch.long)
    return torch.cat([zeros, ids], 1), torch.cat([zeros, torch.ones_like(ids)], 1)


def slow_beams(model, prompt, n_beams):
    """Best text of N_NEW tokens by whole texts scored again at each step, without a cache."""
    end, beams = model.generation_config.eos_token_id, [(0.0, prompt)]
    for _ in range(N_NEW):
        grown = []
        for score, ids in beams:
            logs = model(ids, use_cache=False).logits[0, -1].log_softmax(-1)
            logs[end] = -torch.inf  # as min_new_tokens has it
            best = logs.topk(n_beams)
            for log, token in zip(best.values.tolist(), best.indices):
                grown.append((score + log, torch.cat([ids, token.view(1, 1)], 1)))
        beams = sorted(grown, key=lambda beam: -beam[0])[:n_beams]
    return beams[0][1]


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_beam_search_is_that_of_a_slow_reference(name, read):
    model, ids = read(name), prompts(2, 5)
    found = model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, **GREEDY)
    for row, prompt in zip(found, ids):
        assert row.tolist() == slow_beams(model, prompt[None], 3)[0].tolist()


@torch.no_grad()
@pytest.mark.parametrize("cache", [None, "static"])
@pytest.mark.parametrize("name", LAYERS)
def test_padding_and_a_cache_of_fixed_size_change_nothing(name, cache, read):
    """A text of its own, beside a longer one, and with the logits of each step."""
    model, short, long = read(name), prompts(1, 4), prompts(1, 9)
    options = {**GREEDY, "return_dict_in_generate": True, "output_logits": True}
    alone = model.generate(short, attention_mask=torch.ones_like(short), **options)
    ids, mask = padded(short, 5)
    ids, mask = torch.cat([ids, long]), torch.cat([mask, torch.ones_like(long)])
    both = model.generate(ids, attention_mask=mask, cache_implementation=cache, **options)
    assert ("Static" in type(both.past_key_values).__name__) == (cache == "static")
    assert both.sequences[0, 9:].tolist() == alone.sequences[0, 4:].tolist()
    for one, other in zip(alone.logits, both.logits):
        torch.testing.assert_close(other[:1], one, rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("assistant", [None, "dense"])  # the model itself, and another
@pytest.mark.parametrize("name", LAYERS)
def test_assisted_decoding_is_greedy(name, assistant, read):
    model, ids = read(name), prompts(1, 6)
    options = {"attention_mask": torch.ones_like(ids), **GREEDY}
    helper = read(assistant or name)
    assert torch.equal(
        model.generate(ids, assistant_model=helper, **options), model.generate(ids, **options)
    )


@torch.no_grad()
@pytest.mark.parametrize("name", LAYERS)
def test_a_tokenizer_for_stop_strings_changes_no_text_without_them(name, read):
    """transformers asks for it, and its server gives it to every call."""
    model, ids = read(name), prompts(1, 5)
    folder = model.config.name_or_path
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
    found = model.generate(ids, tokenizer=tokenizer, stop_strings=["in no text"], **GREEDY)
    assert found.tolist() == model.generate(ids, **GREEDY).tolist()
    with pytest.raises((TypeError, ValueError), match="tokeniser"):
        model.generate(ids, tokeniser=tokenizer, **GREEDY)  # other keywords are refused as before
