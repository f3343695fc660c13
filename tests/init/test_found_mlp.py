"""An MLP is found by what the parts of a block do: where the tables say, in every architecture."""

import copy

import pytest
import torch

from experiments.init import retrofit
from experiments.init.attached import find_layers
from experiments.init.found_mlp import found_paths, slots_of
from experiments.init.slots import ARCHITECTURES
from tests.init.test_retrofit import CONFIG, path_in, wake
from tests.init.tiny import BUILT_IN, LAYERS, OTHERS, logits, tiny

transformers = pytest.importorskip("transformers")

KNOWN = ("Gemma", "Gemma2", "Gemma3", "Phi", "Phi3", "Olmo2", "Mixtral", "GptOss")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [*BUILT_IN, *OTHERS])
def test_it_is_where_the_tables_say(kind, dtype):
    model = tiny(kind).to(dtype)
    before = copy.deepcopy(model.state_dict())
    named = slots_of(model, [0, 2], path_in(kind))
    assert found_paths(model, [0, 2]) == {slot.block: slot.paths for slot in named}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_found_ones_are_exact_at_the_start_and_what_they_say():
    for kind in ("Cohere", "OPT", "Llama4"):
        model = tiny(kind)
        base = logits(model)
        retrofit(model, [0, 1], CONFIG, mlp="auto")
        assert torch.equal(logits(model), base)
        wake(model)
        assert not torch.equal(logits(model), base)
    assert find_layers(model)[0].made.paths == tuple(p.format(0) for p in OTHERS["Llama4"][1])


@pytest.mark.parametrize("kind", KNOWN)
def test_what_is_built_in_needs_no_path(kind):
    model = tiny(kind)
    assert model.config.model_type in ARCHITECTURES
    expected = [slot.paths for slot in slots_of(model, [0, 1], path_in(kind))]
    for mlp in (None, "auto"):
        assert [slot.paths for slot in slots_of(model, [0, 1], mlp)] == expected


def test_none_and_several_are_one_line_that_names_what_was_looked_for():
    config = transformers.MambaConfig(hidden_size=32, num_hidden_layers=2, vocab_size=64)
    model = transformers.MambaForCausalLM(config)
    with pytest.raises(ValueError, match=r"layers\.0, which has norm .*mixer .*looked for was a p"):
        retrofit(model, [0], CONFIG, mlp="auto")

    model = tiny("Cohere")
    block = model.model.layers[0]
    block.other = copy.deepcopy(block.mlp)
    block.mlp.register_forward_hook(lambda _, args, y: y + block.other(args[0]))
    with pytest.raises(ValueError, match=r"has 2 MLPs: .*layers\.0\.\w+, .*layers\.0\.\w+; name"):
        retrofit(model, [0], CONFIG, mlp="auto")

    bare = torch.nn.Module()
    bare.lm = torch.nn.Embedding(4, 8)
    bare.forward = lambda input_ids: bare.lm(input_ids)
    with pytest.raises(ValueError, match="Module has no list of blocks that pass hidden states on"):
        retrofit(bare, [0], CONFIG, mlp="auto")
    with pytest.raises(ValueError, match=r"blocks=\[3\] .*model.layers are 0 to 2"):
        retrofit(tiny("Cohere"), [3], CONFIG, mlp="auto")


def test_attention_is_no_mlp_though_it_is_called_alike():
    """A part that has the MLP's matrices and looks at other positions too."""
    model = tiny("Cohere")

    class Mixing(torch.nn.Module):
        def __init__(self, mlp):
            super().__init__()
            self.mlp = mlp

        def forward(self, x):
            return self.mlp(x) + x.cumsum(1)

    model.model.layers[0].mlp = Mixing(model.model.layers[0].mlp)
    with pytest.raises(ValueError, match=r"finds no MLP in model\.layers\.0, .*mlp \(Mixing\)"):
        found_paths(model, [0])
    assert found_paths(model, [1]) == {1: (LAYERS.format(1),)}
