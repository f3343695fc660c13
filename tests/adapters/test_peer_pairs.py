"""PEER adapters beside MLPs that are no module by themselves: a pair of modules names them."""

import copy

import pytest
import torch

from experiments import adapters
from experiments.init import retrofit, unretrofit
from experiments.init.attached import find_layers
from experiments.models.ffn.peer import PEERConfig
from tests.adapters.peers import SMALL, peer_layers, slow_peer, tensors, wake
from tests.init.tiny import OTHERS, PAIRS, logits, tiny

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
TYPES = (torch.float32, torch.bfloat16)


def config(**values):
    return adapters.PeerConfig(**SMALL | {"task_type": "CAUSAL_LM"} | values)


def paired(kind, dtype=torch.float32, **values):
    chosen = {"layers_to_transform": [0, 2], "pair": list(OTHERS[kind][1])} | values
    return peft.get_peft_model(tiny(kind).to(dtype), config(**chosen)).eval()


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", PAIRS)
def test_an_mlp_that_is_a_pair_of_modules_has_an_adapter_too(kind, dtype, tmp_path):
    base = tiny(kind).to(dtype)
    before, keys = logits(base), list(base.state_dict())
    hooks = {name: len(m._forward_pre_hooks) for name, m in base.named_modules()}
    model = peft.get_peft_model(base, config(pair=OTHERS[kind][1], layers_to_transform=[0, 2]))
    assert len(peer_layers(model)) == 2
    assert torch.equal(logits(model.train()), before)
    woken = logits(wake(model.eval()))
    assert not torch.equal(woken, before)
    assert torch.equal(logits(copy.deepcopy(model)), woken)
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(tiny(kind).to(dtype), tmp_path).eval()
    assert torch.equal(logits(again), woken)
    assert model.unload() is base
    assert torch.equal(logits(base), before)
    assert list(base.state_dict()) == keys
    assert hooks == {name: len(m._forward_pre_hooks) for name, m in base.named_modules()}


def test_a_pair_s_adapter_reads_what_the_first_module_is_given():
    model = wake(paired("OPT", torch.float64, layers_to_transform=[1]))
    model.add_adapter("second", config(pair=OTHERS["OPT"][1], layers_to_transform=[1]))
    wake(model, "second", seed=1)
    block = model.base_model.model.model.decoder.layers[1]
    (layer,) = peer_layers(model)
    x = torch.randn(2, 3, 32, dtype=torch.float64)
    for names in (["default"], ["default", "second"]):
        model.base_model.set_adapter(names)
        hidden = torch.relu(block.fc1(x))
        added = [
            torch.stack([slow_peer(row, tensors(layer, name), c) for row in x.flatten(0, 1)])
            for name, c in model.peft_config.items()
            if name in names
        ]
        y = block.fc2(hidden)
        torch.testing.assert_close(y, layer.base_layer(hidden) + sum(added).view_as(x))
    assert layer.handed.x is None


@pytest.mark.parametrize(
    ("values", "why"),
    [
        ({"pair": ["a.{}.b"]}, r"pair=\['a\.{}\.b'\] must be two paths"),
        ({"pair": ["a.b", "a.{}.c"]}, "must be two paths with one {}"),
        ({"pair": ["a.{}.b", "a.{}.c"], "target_modules": ["c"]}, "give one of the two"),
    ],
)
def test_what_is_no_pair_is_refused(values, why):
    with pytest.raises(ValueError, match=why):
        config(**values)


def test_a_pair_that_the_model_has_not_is_refused():
    wrong = ["model.decoder.layers.{}.fc3", OTHERS["OPT"][1][1]]
    with pytest.raises(ValueError, match=r"OPTForCausalLM has no model\.decoder\.layers\.0\.fc3"):
        peft.get_peft_model(tiny("OPT"), config(pair=wrong))
    with pytest.raises(ValueError, match=r"names block 7, in which no module is \['model\.decod"):
        paired("OPT", layers_to_transform=[7])
    model = paired("OPT")
    with pytest.raises(ValueError, match="give the same pair or target_modules"):
        model.add_adapter("second", config(target_modules=["fc2"]))


def test_a_pair_may_have_a_layer_of_retrofit_and_an_adapter():
    """Both read the first module's input, and each goes without the other's."""
    base = tiny("OPT")
    before = logits(base)
    layer = PEERConfig(n_experts=16, n_heads=2, top_k=4, d_key=8, query_norm="layer")
    retrofit(base, [1], layer, mlp=OTHERS["OPT"][1])
    with torch.no_grad():
        find_layers(base)[0].layer.w_up.normal_()
    added = logits(base)
    model = peft.get_peft_model(base, config(pair=OTHERS["OPT"][1], layers_to_transform=[1]))
    assert torch.equal(logits(model.eval()), added)
    assert not torch.equal(logits(wake(model)), added)
    assert torch.equal(logits(model.unload()), added)
    assert torch.equal(logits(unretrofit(base)), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in base.modules())
