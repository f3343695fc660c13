"""Exact start on a real model: SmolLM2-135M-Instruct, from its wheel."""

import pytest
import torch

from experiments.init import retrofit, unretrofit
from experiments.init.gguf import gguf_state
from experiments.models.ffn.peer import PEERConfig
from tests.init.test_smollm2 import SMOLLM2

transformers = pytest.importorskip("transformers")

PROMPT = torch.tensor([[504, 3575, 282, 4649, 314]])  # The capital of France is
TOKENS = torch.arange(2, 66).view(2, 32) * 700  # of 49,152
CONFIG = PEERConfig(
    n_experts=65_536,
    n_heads=4,
    top_k=16,
    d_key=128,
    query_norm="layer",
    activation="silu",
    glu=True,
)


@pytest.fixture(scope="module")
def smollm2(cache):
    try:
        path = SMOLLM2.fetched(cache)
    except RuntimeError as error:
        pytest.skip(str(error))
    config = transformers.LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        rms_norm_eps=1e-5,
        rope_theta=100_000.0,
        tie_word_embeddings=True,
    )
    with torch.device("meta"):  # drawing 135 M weights takes longer than reading them
        model = transformers.LlamaForCausalLM(config)
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    model.load_state_dict(gguf_state(path), strict=False, assign=True)
    model.tie_weights()
    assert not any(p.is_meta for p in model.parameters())
    with torch.no_grad():  # so what follows is of the model that its name says
        assert int(model.eval()(input_ids=PROMPT).logits[0, -1].argmax()) == 7042  # Paris
    return model


def logits(model, training):
    model.train(training)
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.night)], ids=str
)
@pytest.mark.parametrize("how", ["beside", "copies"])
def test_65536_experts_beside_a_middle_mlp_change_no_logit(smollm2, how, dtype):
    model = smollm2.to(dtype)
    base = [logits(model, training) for training in (False, True)]
    retrofit(model, [15], CONFIG, how=how)
    for training in (False, True):
        assert torch.equal(logits(model, training), base[training])
    with torch.no_grad():
        model.model.layers[15].mlp.peer.layer.w_up.normal_(std=0.1)
    assert not torch.equal(logits(model, False), base[False])
    assert torch.equal(logits(unretrofit(model), False), base[False])
