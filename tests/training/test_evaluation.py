import math

import numpy as np
import pytest
import torch

from experiments.config.schema import EvaluationRule
from experiments.data.tokenizer import TrainedBPE
from experiments.data.vocabulary import prepare_vocabulary
from experiments.data.windows import ScoredWindows
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig
from experiments.training.evaluation import Evaluation, evaluate, results_table, score_sets
from tests.conftest import Nursery
from tests.data.conftest import packed

VOCAB, SEQ = 30, 16
PEER = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4)
CPU, ONES = torch.device("cpu"), np.ones(VOCAB)


def model_of(*ffns):
    sizes = {"d_model": 16, "d_head": 8, "vocab_size": VOCAB, "seq_len": SEQ}
    return TransformerConfig(**sizes, tie_head=False, ffns=ffns).build()


def score(model, windows, sizes=ONES):
    return evaluate(model, windows, sizes, CPU)


@pytest.fixture
def held_out(tmp_path):
    tokens = packed(tmp_path / "t", np.random.default_rng(0).integers(0, VOCAB, 500))

    def windows(batch_size):
        return ScoredWindows(tokens, seq_len=SEQ, max_tokens=320, batch_size=batch_size)

    return windows


class Coins(torch.nn.Module):
    """After an even id: ids 0 and 1 with probability 1/2 each; after an odd one 0 to 3, 1/4."""

    columns = None

    def forward(self, tokens):
        logits = torch.full((*tokens.shape, VOCAB), -torch.inf)
        logits[..., :2] = 0.0
        logits[tokens % 2 == 1, 2:4] = 0.0
        return logits

    def ffn_layers(self):
        return iter(())


@pytest.mark.parametrize("batch_size", [1, 2, 7])
@pytest.mark.parametrize("stride", [None, 1, 2, 5])
def test_a_perplexity_computed_by_hand(tmp_path, stride, batch_size):
    """Six targets after an even id, two after an odd one: 6 + 2*2 bits over 8 tokens, 1.25 bits
    each; a perplexity of 2**1.25 = 2.3784. Three bytes a token: 10 / 24 bits a byte.
    """
    tokens = packed(tmp_path / "t", np.array([0, 0, 1, 2, 0, 0, 1, 3 - 1, 0]))
    windows = ScoredWindows(tokens, seq_len=5, stride=stride, batch_size=batch_size)
    result = score(Coins(), windows, np.full(VOCAB, 3.0))
    assert result.n_tokens == 8
    assert result.perplexity == pytest.approx(2.378414230005442, rel=1e-7)
    assert result.bits_per_byte == pytest.approx(10 / 24, rel=1e-7)


def test_is_the_mean_over_tokens_by_hand(held_out):
    model, token_bytes = model_of(DenseConfig()).eval(), np.arange(VOCAB)
    result = score(model, held_out(8), token_bytes)
    losses, n_bytes = [], 0
    for inputs, targets, _ in held_out(1):
        probabilities = model(inputs).detach().softmax(-1)[0]
        for t, target in enumerate(targets[0].tolist()):
            losses.append(-math.log(probabilities[t, target]))
            n_bytes += target
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(sum(losses) / math.log(2) / n_bytes, rel=1e-6)
    assert (result.n_tokens, result.n_bytes) == (320, n_bytes)


def test_batching_does_not_matter_except_to_expert_choice(held_out):
    for ffn, depends in ((DenseConfig(), False), (PEER, False), (MoEConfig(n_experts=4), True)):
        model = model_of(ffn)
        losses = [score(model, held_out(n)).loss for n in (1, 2, 20)]
        assert (np.ptp(losses) > 1e-5) == depends


def test_says_whether_it_was_causal(held_out):
    assert score(model_of(PEER), held_out(4)).causal
    assert not score(model_of(DenseConfig(), MoEConfig(n_experts=4)), held_out(4)).causal


def test_usage_is_the_mean_over_layers_with_experts(held_out):
    result = score(model_of(PEER, DenseConfig(), PEER), held_out(4))
    assert 0 < result.usage <= 1
    assert 0 <= result.unevenness <= math.log(16)
    assert score(model_of(DenseConfig()), held_out(4)).usage is None


def test_leaves_the_mode_and_the_batch_norms_as_they_were(held_out):
    model = model_of(PEER).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    score(model, held_out(4))
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize("ffn", [DenseConfig(), MoEConfig(n_experts=4), PEER])
def test_is_float32_where_training_is_under_autocast(held_out, ffn):
    model = model_of(ffn)
    exact = score(model, held_out(4))
    with torch.autocast("cpu", torch.bfloat16):
        assert score(model, held_out(4)) == exact


def test_a_perplexity_beyond_floats_is_infinite():
    result = Evaluation(loss=1e3, n_tokens=1, n_bytes=1, usage=None, unevenness=None, causal=True)
    assert result.perplexity == math.inf


@pytest.mark.parametrize(("ffn", "mark"), [(PEER, ""), (MoEConfig(n_experts=4), " *")])
def test_the_table_marks_what_is_no_strict_perplexity(tmp_path, ffn, mark):
    tokens = packed(tmp_path / "t", np.random.default_rng(0).integers(0, VOCAB, 500))
    vocabulary = prepare_vocabulary(TrainedBPE(vocab_size=270), Nursery(), tmp_path)
    rule = EvaluationRule(stride=4, max_tokens=None, batch_size=3)
    scores = score_sets(
        model_of(ffn), {"news": tokens}, vocabulary, rule, seq_len=SEQ, batch_size=8, device=CPU
    )
    (result,) = scores.values()
    assert (result["stride"], result["batch_size"], result["n_tokens"]) == (4, 3, 499)
    table = results_table(scores)
    assert f"{result['perplexity']:.2f}{mark} " in table
    assert ("expert choice" in table) == bool(mark)
    assert "sliding 16/4" in table
    assert list(scores) == ["news@stride=4,batch_size=3"]
