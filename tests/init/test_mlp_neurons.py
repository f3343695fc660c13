"""What is read as a sum over neurons is one; what is not is refused."""

import pytest
import torch

from experiments.init.mlp_neurons import read_mlp
from experiments.init.slots import find_slots
from experiments.models.ffn._base import ACTIVATIONS
from tests.init.tiny import BUILT_IN, LAYERS, OTHERS, tiny

pytest.importorskip("transformers")

PLAIN = (
    "Gemma", "Gemma2", "Gemma3", "Phi", "StableLm", "Cohere", "Olmo2", "Starcoder2",
    "Falcon", "Phi3", "Glm4", "GPTJ", "CodeGen", "Lfm2",
)  # fmt: skip
READABLE = {kind: {} for kind in (*BUILT_IN, *PLAIN)} | {
    "Llama mlp_bias": {"mlp_bias": True},
    "GPT2 gelu": {"activation_function": "gelu"},
    "Llama relu": {"hidden_act": "relu"},
    "Llama gelu_fast": {"hidden_act": "gelu_fast"},  # tanh, with constants of 10 digits
}
BIASED = ("GPT2", "GPTNeoX", "Phi", "Starcoder2", "GPTJ", "CodeGen")
NAMES = {"GPT2": "gelu_tanh", "GPTNeoX": "gelu", "Llama": "silu", "Llama relu": "relu"}
NAMES |= {"Gemma": "gelu_tanh", "GPT2 gelu": "gelu", "Llama gelu_fast": "gelu_tanh"}


def slot_of(kind, block=1, dtype=torch.float64, **values):
    model = tiny(kind, **values).to(dtype)
    (slot,) = find_slots(model, [block], OTHERS[kind][1] if kind in OTHERS else None)
    return slot


def written_out(units, x):
    """One neuron at a time."""
    neurons, act = units.neurons, ACTIVATIONS[units.neurons.activation]
    y = torch.zeros_like(x)
    for i in range(len(neurons.w_down)):
        hidden = x @ neurons.w_down[i]
        if units.down_bias is not None:
            hidden = hidden + units.down_bias[i]
        if neurons.w_gate is None:
            hidden = act(hidden)
        else:
            gate = x @ neurons.w_gate[i]
            hidden = act(gate if units.gate_bias is None else gate + units.gate_bias[i]) * hidden
        y = y + hidden.unsqueeze(-1) * neurons.w_up[i]
    return y if units.bias is None else y + units.bias


@pytest.mark.parametrize("name", READABLE)
def test_the_neurons_sum_up_to_the_mlp(name):
    kind = name.split()[0]
    slot = slot_of(kind, **READABLE[name])
    units = read_mlp(slot)
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    with torch.no_grad():
        y = slot.last(x)
    torch.testing.assert_close(written_out(units, x), y, rtol=0, atol=1e-6 * y.abs().max().item())
    if name in NAMES:
        assert units.neurons.activation == NAMES[name]
    assert units.is_biased == (kind in BIASED or "bias" in name)


@pytest.mark.parametrize("name", ["GPT2", "Llama", "Llama mlp_bias"])
def test_a_constant_input_carries_the_biases(name):
    units = read_mlp(slot_of(name.split()[0], **READABLE[name]))
    x = torch.randn(4, 32, dtype=torch.float64)
    neurons = units.with_constant()
    one = torch.cat([x, torch.ones(4, 1, dtype=x.dtype)], 1)
    hidden = one @ neurons.w_down.t()
    act = ACTIVATIONS[neurons.activation]
    hidden = act(hidden) if neurons.w_gate is None else act(one @ neurons.w_gate.t()) * hidden
    y = hidden @ neurons.w_up
    bias = 0 if units.bias is None else units.bias
    torch.testing.assert_close(y[:, :-1] + bias, written_out(units, x))
    assert y[:, -1].abs().max() == 0


def test_a_bfloat16_mlp_is_read_in_float32():
    slot = slot_of("GPT2", dtype=torch.bfloat16)
    units = read_mlp(slot)
    assert units.neurons.w_down.dtype == torch.float32
    assert torch.equal(units.neurons.w_down, slot.last.c_fc.weight.t().float())
    assert slot.last.c_fc.weight.dtype == torch.bfloat16


REFUSED = [
    ("Nemotron", r"NemotronMLP\) is no sum over .*\(gelu, gelu_tanh"),  # its activation
    ("Mixtral", "has none of these"),
    ("Bloom", r"BloomMLP\) can't be run by itself \(.*residual"),
    ("OPT", r"layers.1.fc1 \+ model.decoder.layers.1.fc2 \(Linear\) is two modules"),
]


@pytest.mark.parametrize(("kind", "message"), REFUSED)
def test_another_mlp_is_refused(kind, message):
    with pytest.raises(ValueError, match=message) as refused:
        read_mlp(slot_of(kind, dtype=torch.float32))
    assert "take how='beside', which needs none" in str(refused.value)
    assert "\n" not in str(refused.value)


def scaled(mlp):
    """As in a model of others that scales its hidden units."""
    plain = type(mlp).forward
    forward = {"forward": lambda self, x: 1.01 * plain(self, x)}
    mlp.__class__ = type("ScaledMLP", (type(mlp),), forward)


def wrapped(mlp):
    mlp.up_proj = torch.nn.Sequential(mlp.up_proj)


@pytest.mark.parametrize(
    ("change", "path", "message"),
    [
        (scaled, LAYERS, r"layers.1.mlp \(ScaledMLP\) is no sum over its neurons"),
        (wrapped, None, "has a up_proj of type Sequential, no plain matrix"),
    ],
)
def test_the_same_names_with_another_sum_are_refused(change, path, message):
    model = tiny("Llama")
    change(model.model.layers[1].mlp)
    (slot,) = find_slots(model, [1], path)
    with pytest.raises(ValueError, match=message):
        read_mlp(slot)
