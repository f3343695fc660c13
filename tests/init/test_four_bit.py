"""A layer beside the MLPs of a base in 4 bits, where bitsandbytes is installed."""

import pytest
import torch

from experiments.init import (
    freeze_base,
    load_retrofitted,
    retrofit,
    save_retrofitted,
    unretrofit,
)
from experiments.models.ffn.peer import PEERConfig

transformers = pytest.importorskip("transformers")
pytest.importorskip("bitsandbytes")
peft = pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore")  # theirs
CONFIG = PEERConfig(n_experts=144, n_heads=2, top_k=8, d_key=32, query_norm="layer")


@pytest.fixture
def base(tmp_path):
    """Llama in 4 bits: a forward pass without gradients has chosen its kernels."""
    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 3}
    config = transformers.LlamaConfig(vocab_size=64, num_attention_heads=4, **shape)
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "whole")
    how = transformers.BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_compute_dtype=torch.float32)
    model = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path / "whole", quantization_config=how, device_map={"": "cpu"}
    )
    assert type(model.model.layers[1].mlp.up_proj).__name__ == "Linear4bit"
    logits(model)
    return model


IDS = torch.randint(3, 60, (2, 9), generator=torch.Generator().manual_seed(0))


@torch.no_grad()
def logits(model):
    return model(IDS).logits


def train(model):
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(20):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def test_a_layer_beside_is_exact_trains_is_saved_and_goes(base, tmp_path):
    before = logits(base)
    retrofit(base, blocks=[1], config=CONFIG)
    assert torch.equal(logits(base), before)
    freeze_base(base)
    losses = train(base)
    assert losses[-1] < 0.9 * losses[0]
    save_retrofitted(base, tmp_path / "new")
    found = load_retrofitted(tmp_path / "new")
    assert type(found.model.layers[1].mlp.up_proj).__name__ == "Linear4bit"
    assert torch.equal(logits(found), logits(base))


def test_neurons_of_four_bits_are_no_experts(base):
    config = PEERConfig(
        n_experts=144, n_heads=2, top_k=8, d_key=32, query_norm="layer",
        activation="silu", glu=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="of type Linear4bit, no plain matrix"):
        retrofit(base, blocks=[1], config=config, how="copies")
    before = logits(base)
    retrofit(base, blocks=[1], config=CONFIG)
    assert torch.equal(logits(unretrofit(base)), before)


def test_a_peft_adapter_beside_is_exact_and_trains(base, tmp_path):
    from experiments.adapters import PeerConfig

    before = logits(base)
    config = PeerConfig(n_experts=144, n_heads=2, top_k=8, d_key=32, task_type="CAUSAL_LM")
    model = peft.get_peft_model(base, config)
    assert torch.equal(logits(model), before)
    losses = train(model)
    assert losses[-1] < 0.9 * losses[0]
