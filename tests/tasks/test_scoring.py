"""Log-probabilities of continuations, against a slow reference in float64."""

import math

import numpy as np
import pytest
import torch

from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import prepare_vocabulary
from experiments.data.windows import ScoredWindows
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.pkm import PKMConfig
from experiments.models.transformer import TransformerConfig
from experiments.tasks.scoring import EncodedPair, Encoder, Scorer, check_lengths, n_cut
from experiments.training.evaluation import evaluate
from tests.conftest import Nursery
from tests.data.conftest import packed
from tests.rounding import relative

VOCAB, SEQ = 40, 12
CPU = torch.device("cpu")
LAYERS = {
    "dense": DenseConfig(),
    "peer": PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4),
    "pkm": PKMConfig(n_experts=16, n_heads=2, top_k=2, d_key=4),
    "moe_fine": MoEConfig(n_experts=4, routing="token_choice", top_k=2, granularity=4),
}


def scorer_of(ffn, batch_size=3, document_end=None):
    config = TransformerConfig(
        d_model=16, d_head=8, vocab_size=VOCAB, seq_len=SEQ, tie_head=False, ffns=(ffn, ffn),
        document_end=document_end,
    )  # fmt: skip
    model = config.build().eval()
    return Scorer(model=model, seq_len=SEQ, batch_size=batch_size, device=CPU)


def pairs_of(n=11, longest=2 * SEQ):
    rng = np.random.default_rng(0)
    return [
        EncodedPair(
            rng.integers(0, VOCAB, rng.integers(1, longest)).tolist(),
            rng.integers(0, VOCAB, rng.integers(1, SEQ + 1)).tolist(),
        )
        for _ in range(n)
    ]


def reference(model, pair):
    """One request at a time: the log-softmax in float64 of each token after all before it, of
    which the window holds the last SEQ of those before the continuation's last token.
    """
    inputs = (pair.context + pair.continuation)[:-1][-SEQ:]
    logits = model(torch.tensor([inputs])).detach()[0].double()
    total, greedy = 0.0, True
    for i, token in enumerate(reversed(pair.continuation), 1):
        row = logits[len(inputs) - i]
        total += float(row[token] - row.logsumexp(0))
        greedy &= int(row.argmax()) == token
    return total, greedy


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("layer", LAYERS)
def test_equals_one_request_at_a_time_in_float64(layer, batch_size):
    """1e-4 of some 40 nats: float32 logits, whose last digits depend on the batch's shape."""
    scorer, pairs = scorer_of(LAYERS[layer], batch_size), pairs_of()
    assert n_cut(pairs, SEQ) > 2  # contexts longer than the window are among them
    scored = scorer.loglikelihoods(pairs)
    for result, pair in zip(scored, pairs, strict=True):
        total, greedy = reference(scorer.model, pair)
        assert result.logprob == pytest.approx(total, rel=relative(2))
        assert result.greedy == greedy


def test_what_greedy_decoding_produces_is_greedy():
    scorer = scorer_of(LAYERS["peer"])
    new = scorer.go_on([1, 2, 3], 5, lambda new: False)
    (result,) = scorer.loglikelihoods([EncodedPair([1, 2, 3], new)])
    assert result.greedy
    new[2] = (new[2] + 1) % VOCAB
    (result,) = scorer.loglikelihoods([EncodedPair([1, 2, 3], new)])
    assert not result.greedy


def test_greedy_decoding_is_the_argmax_step_by_step_and_moves_the_window_on():
    scorer = scorer_of(LAYERS["dense"])
    row = [5, 6]
    for _ in range(SEQ + 4):
        row.append(int(scorer.model(torch.tensor([row[-SEQ:]]))[0, -1].argmax()))
    assert scorer.go_on([5, 6], SEQ + 4, lambda new: False) == row[2:]
    assert scorer.go_on([5, 6], 50, lambda new: len(new) == 3) == row[2:5]
    assert scorer.go_on([5, 6], 0, lambda new: False) == []


def test_a_context_cut_from_the_left_is_not_seen():
    scorer = scorer_of(LAYERS["dense"])
    pairs = [EncodedPair([first, *range(SEQ)], [1, 2]) for first in (3, 4)]
    pairs.append(EncodedPair([*range(1, SEQ)], [1, 2]))
    one, other, without = scorer.loglikelihoods(pairs)
    assert one == other
    assert one.logprob == pytest.approx(without.logprob, rel=relative(2))
    assert n_cut(pairs, SEQ) == 2


def test_a_continuation_longer_than_the_window_is_refused():
    check_lengths([EncodedPair([1], [2] * SEQ)], SEQ)
    with pytest.raises(ValueError, match=f"has {SEQ + 1} tokens, more than the model's window of"):
        scorer_of(LAYERS["dense"]).loglikelihoods([EncodedPair([1], [2] * (SEQ + 1))])


@pytest.mark.parametrize("stride", [None, 5])
@pytest.mark.parametrize("n", [1, SEQ - 1, SEQ, SEQ + 1, 100])
def test_a_whole_document_is_scored_as_a_set_of_text(tmp_path, n, stride):
    """Very windows of experiments.evaluate, over the end of a document and the text."""
    scorer, ids = scorer_of(LAYERS["peer"]), np.random.default_rng(1).integers(1, VOCAB, n)
    tokens = packed(tmp_path / "t", np.array([0, *ids]), vocab_size=VOCAB)
    windows = ScoredWindows(tokens, seq_len=SEQ, batch_size=8, stride=stride)
    result = evaluate(scorer.model, windows, np.ones(VOCAB), CPU)
    assert result.n_tokens == n
    total = scorer.rolling(ids.tolist(), 0, stride)
    assert total == pytest.approx(-result.loss * n, rel=1e-6)


def test_a_document_without_text_has_probability_one():
    assert scorer_of(LAYERS["dense"]).rolling([], 0) == 0.0


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    cache = tmp_path_factory.mktemp("vocabulary")
    return Encoder.of(prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), cache))


def test_white_space_at_the_context_s_end_is_the_continuation_s(encoder):
    """Byte-level BPE has " while" as one piece, so the space must be encoded with the word."""
    expected = EncodedPair(encoder.encode("the"), encoder.encode(" while"))
    assert encoder.encode_pair("the ", "while") == expected
    assert encoder.encode_pair("the", " while") == expected
    apart = encoder.encode("the ") + encoder.encode("while")
    assert apart != expected.context + expected.continuation
    lines = encoder.encode_pair("the \n ", "while")
    assert lines.context == encoder.encode("the")
    assert lines.context + lines.continuation == encoder.encode("the \n while")


def test_no_context_is_the_end_of_another_document(encoder):
    expected = EncodedPair([encoder.end_of_text], encoder.encode("the cat"))
    assert encoder.encode_pair("", "the cat") == expected
    spaces = encoder.encode_pair("  ", "the cat")
    assert spaces == EncodedPair([encoder.end_of_text], encoder.encode("  the cat"))


def test_a_continuation_that_the_vocabulary_joins_to_the_context_is_refused(encoder):
    joined = next(
        (word[:i], word[i:])
        for word in ("the", "cat", "while", "seven", "dogs", "past")
        for i in range(1, len(word))
        if len(encoder.encode(word)) == len(encoder.encode(word[:i])) == 1
    )
    with pytest.raises(ValueError, match=r"no token of its own after .* begin it with a"):
        encoder.encode_pair(*joined)


def test_a_uniform_model_by_hand():
    """log(1/40) a token."""
    scorer = scorer_of(DenseConfig())
    torch.nn.init.zeros_(scorer.model.head.weight)
    results = scorer.loglikelihoods([EncodedPair([1], [2, 3]), EncodedPair([1, 2, 3], [4])])
    expected = [2 * math.log(1 / VOCAB), math.log(1 / VOCAB)]
    assert [r.logprob for r in results] == pytest.approx(expected, rel=1e-6)
