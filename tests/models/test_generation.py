"""How the next token is chosen, against obvious forms; and texts that go on with a cache."""

import pytest
import torch

from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.generation import Sampling, generate, next_token
from experiments.models.transformer import TransformerConfig


def small(**options):
    sizes = {"d_model": 32, "d_head": 8, "vocab_size": 50, "seq_len": 16, "tie_head": False}
    peer = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8)
    return TransformerConfig(**sizes, ffns=(peer, DenseConfig()), **options).build().eval()


def drawn(logits, sampling, n=4000):
    """Frequencies of n draws."""
    generator = torch.Generator().manual_seed(1)
    ids = [next_token(logits, sampling, generator) for _ in range(n)]
    return torch.bincount(torch.tensor(ids), minlength=len(logits)) / n


@pytest.mark.parametrize("end", [None, 3])
def test_greedy_is_the_likeliest_token_of_the_whole_text_each_time(end):
    model = small(document_end=end)
    text = [5, 6, 3, 7]
    for _ in range(20):
        with torch.no_grad():
            text.append(int(model(torch.tensor([text]))[0, -1].argmax()))
    made = list(generate(model, [5, 6, 3, 7], n_tokens=20, end=None, sampling=Sampling()))
    assert made == text[4:]


def test_stops_at_the_end_and_does_not_give_it_out():
    model = small()
    made = list(generate(model, [1, 2], n_tokens=12, end=None, sampling=Sampling()))
    end = made[5]
    cut = made[: made.index(end)]
    assert list(generate(model, [1, 2], n_tokens=12, end=end, sampling=Sampling())) == cut


def test_temperature_divides_the_logits():
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0])
    for temperature in (0.5, 1.0, 3.0):
        expected = [2.718281828 ** (x / temperature) for x in logits.tolist()]
        expected = torch.tensor(expected) / sum(expected)
        found = drawn(logits, Sampling(temperature=temperature))
        assert (found - expected).abs().max() < 0.03  # four standard errors of 4,000 draws


@pytest.mark.parametrize("top_p", [0.3, 0.5, 0.8, 0.95, 1.0])
def test_top_p_keeps_the_fewest_likeliest_tokens_that_reach_it(top_p):
    probabilities = [0.1, 0.4, 0.05, 0.25, 0.2]
    kept, total = set(), 0.0
    for p, i in sorted(((p, i) for i, p in enumerate(probabilities)), reverse=True):
        if total < top_p:
            kept.add(i)
            total += p
    found = drawn(torch.tensor(probabilities).log(), Sampling(temperature=1, top_p=top_p))
    assert set(found.nonzero().flatten().tolist()) == kept
    for i in kept:
        assert found[i] == pytest.approx(probabilities[i] / total, abs=0.03)


def test_the_seed_says_what_is_drawn():
    model, sampling = small(), Sampling(temperature=1.5)
    texts = [
        list(generate(model, [1], n_tokens=20, end=None, sampling=sampling, seed=seed))
        for seed in (0, 0, 1)
    ]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -1}, "temperature=-1 must be at least 0"),
        ({"temperature": 1, "top_p": 0}, "top_p=0 must be above 0"),
        ({"temperature": 1, "top_p": 1.1}, "top_p=1.1 must be at most 1"),
        ({"top_p": 0.9}, "top_p=0.9 with temperature=0, which draws nothing"),
    ],
)
def test_refuses_what_means_nothing(values, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**values)
