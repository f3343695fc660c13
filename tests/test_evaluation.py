import math

import numpy as np
import pytest
import torch

from experiments.data.module import HeldOut
from experiments.evaluation import Evaluation, evaluate
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import TransformerConfig

VOCAB, SEQ = 30, 16
PEER = PEERConfig(n_experts=16, n_heads=2, top_k=2, d_key=4)
CPU = torch.device("cpu")


def model_of(*ffns):
    config = TransformerConfig(
        d_model=16, d_head=8, vocab_size=VOCAB, seq_len=SEQ, tie_head=False, ffns=ffns
    )
    return config.build()


def held_out(batch_size):
    tokens = np.random.default_rng(0).integers(0, VOCAB, 500).astype(np.uint16)
    return HeldOut(tokens, seq_len=SEQ, n_eval_tokens=320, batch_size=batch_size)


def test_is_the_mean_over_tokens_by_hand():
    model, token_bytes = model_of(DenseConfig()).eval(), np.arange(VOCAB)
    result = evaluate(model, held_out(8), token_bytes, CPU)
    losses, n_bytes = [], 0
    for inputs, targets in held_out(1):
        probabilities = model(inputs).detach().softmax(-1)[0]
        for t, target in enumerate(targets[0].tolist()):
            losses.append(-math.log(probabilities[t, target]))
            n_bytes += target
    assert result.loss == pytest.approx(np.mean(losses), rel=1e-6)
    assert result.perplexity == pytest.approx(math.exp(np.mean(losses)), rel=1e-6)
    assert result.bits_per_byte == pytest.approx(sum(losses) / math.log(2) / n_bytes, rel=1e-6)
    assert (result.n_tokens, result.n_bytes) == (320, n_bytes)


def test_batching_does_not_matter_except_to_expert_choice():
    for ffn, depends in ((DenseConfig(), False), (PEER, False), (MoEConfig(n_experts=4), True)):
        model = model_of(ffn)
        losses = [evaluate(model, held_out(n), np.ones(VOCAB), CPU).loss for n in (1, 2, 20)]
        assert (np.ptp(losses) > 1e-5) == depends


def test_says_whether_it_was_causal():
    assert evaluate(model_of(PEER), held_out(4), np.ones(VOCAB), CPU).causal
    leaky = model_of(DenseConfig(), MoEConfig(n_experts=4))
    assert not evaluate(leaky, held_out(4), np.ones(VOCAB), CPU).causal


def test_usage_is_the_mean_over_layers_with_experts():
    result = evaluate(model_of(PEER, DenseConfig(), PEER), held_out(4), np.ones(VOCAB), CPU)
    assert 0 < result.usage <= 1
    assert 0 <= result.unevenness <= math.log(16)
    assert evaluate(model_of(DenseConfig()), held_out(4), np.ones(VOCAB), CPU).usage is None


def test_leaves_the_mode_and_the_batch_norms_as_they_were():
    model = model_of(PEER).train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, held_out(4), np.ones(VOCAB), CPU)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


def test_a_perplexity_beyond_floats_is_infinite():
    result = Evaluation(loss=1e3, n_tokens=1, n_bytes=1, usage=None, unevenness=None, causal=True)
    assert result.perplexity == math.inf
