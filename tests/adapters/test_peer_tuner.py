"""PEER as a method of peft: the base's function at zero, and what peft's calls do with adapters."""

import copy

import pytest
import torch

from experiments import adapters
from tests.adapters.peers import SMALL, peer_layers, slow_peer, tensors, wake
from tests.init.tiny import BUILT_IN, logits, tiny, tokens

peft = pytest.importorskip("peft")
pytest.importorskip("transformers")

# peft 0.21 asks transformers 5.24 by names that are on their way out
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing`:FutureWarning",
    "ignore:`gradient_checkpointing_enable`:FutureWarning",
)
KINDS = ("Llama", "GPT2", "GPTNeoX")
TYPES = (torch.float32, torch.bfloat16)


def config(**values):
    return adapters.PeerConfig(**SMALL | {"task_type": "CAUSAL_LM"} | values)


def adapted(kind="Llama", dtype=torch.float32, **values):
    """A tiny model with an adapter beside the MLPs of two blocks of three, or as values say."""
    chosen = {"layers_to_transform": [0, 2]} | values
    return peft.get_peft_model(tiny(kind).to(dtype), config(**chosen)).eval()


OTHERS = (("Phi3", "mlp"), ("Falcon", "mlp"), ("Mixtral", "mlp"), ("Llama", "q_proj"))


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize(("kind", "target"), [*((kind, None) for kind in BUILT_IN), *OTHERS])
def test_a_new_adapter_changes_no_logit_and_goes_without_a_trace(kind, target, dtype):
    base = tiny(kind).to(dtype)
    where = {"target_modules": [target]} if target else {}  # of another architecture: by its name
    keys = list(base.state_dict())
    for training in (False, True):
        base.train(training)
        before = logits(base)
        model = peft.get_peft_model(base, config(layers_to_transform=[0, 2], **where))
        assert [layer.training for layer in peer_layers(model)] == [training] * 2
        model.train(training)
        assert torch.equal(logits(model), before)
        wake(model)
        woken = logits(model)
        assert not torch.equal(woken, before)
        with model.disable_adapter():
            assert torch.equal(logits(model), before)
        assert torch.equal(logits(model), woken)
        assert model.unload() is base
        assert torch.equal(logits(base), before)
        assert list(base.state_dict()) == keys
        assert not peer_layers(base)


FORMS = {
    "as it is": {},
    "gated": {"glu": True, "activation": "silu"},
    "keys by head": {"share_keys": False, "score": "sigmoid"},
    "no norm": {"query_norm": "none", "activation": "relu", "score": "relu"},
    "linear, all retrieved": {"activation": "identity", "top_k": 16},
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", KINDS)
def test_output_and_gradients_are_those_of_experts_summed_one_by_one(kind, form):
    model = wake(adapted(kind, torch.float64, layers_to_transform=1, **FORMS[form]))
    (layer,) = peer_layers(model)
    held = tensors(layer)
    assert {tensor.dtype for tensor in held.values()} == {torch.float64}
    layer.set_requires_grad("default")
    x = torch.randn(2, 3, 32, dtype=torch.float64, requires_grad=True)
    direction = torch.randn(2, 3, 32, dtype=torch.float64)

    def slow(x):
        rows = [slow_peer(row, held, model.peft_config["default"]) for row in x.flatten(0, 1)]
        return layer.base_layer(x) + torch.stack(rows).view_as(x)

    results = []
    for forward in (layer, slow):
        y = forward(x)
        gradients = torch.autograd.grad((y * direction).sum(), [x, *held.values()])
        results.append([y.detach(), *gradients])
    for fast, reference in zip(*results, strict=True):
        assert reference.abs().max() > 1e-3
        torch.testing.assert_close(fast, reference, rtol=1e-9, atol=1e-10)


def test_adapters_of_several_sizes_are_summed_switched_and_deleted():
    model = wake(adapted(dtype=torch.float64, layers_to_transform=[1]))
    model.add_adapter("wide", config(n_experts=64, glu=True, layers_to_transform=[1, 2]))
    before = logits(model)
    wake(model, "wide", seed=1)
    assert torch.equal(logits(model), before)  # added, and not active
    layer, later = peer_layers(model)
    x = torch.randn(4, 32, dtype=torch.float64)
    mlp = layer.base_layer(x)
    parts = {
        name: torch.stack([slow_peer(row, tensors(layer, name), c) for row in x])
        for name, c in model.peft_config.items()
    }
    for names in (["default"], ["wide"], ["default", "wide"], ["wide", "default"]):
        model.base_model.set_adapter(names)
        assert model.active_adapters == names
        torch.testing.assert_close(layer(x), mlp + sum(parts[name] for name in names))
    model.set_adapter("default")
    assert torch.equal(later(x), later.base_layer(x))  # it has the other adapter alone
    assert torch.equal(logits(model), before)
    model.delete_adapter("wide")
    assert list(model.peft_config) == ["default"]
    assert not any("wide" in key for key in model.state_dict())
    assert list(layer.peers) == ["default"]
    assert not later.peers
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="wide does not exist"):
        model.delete_adapter("wide")


def test_when_the_active_adapter_is_deleted_another_becomes_active():
    model = wake(adapted())
    model.add_adapter("other", config(layers_to_transform=[0, 2]))
    wake(model, "other", seed=1)
    model.set_adapter("other")
    other = logits(model)
    model.set_adapter("default")
    with pytest.warns(UserWarning, match=r"default was active which is now deleted\. .*other"):
        model.delete_adapter("default")
    assert model.active_adapters == ["other"]
    assert torch.equal(logits(model), other)
    model.delete_adapter("other")
    with torch.no_grad():
        assert torch.equal(model.base_model.model(tokens()).logits, logits(tiny("Llama")))


def test_several_adapters_at_zero_are_exact_at_once():
    for dtype in (*TYPES, torch.float16):
        model = adapted(dtype=dtype, target_modules=["mlp"])
        model.add_adapter("second", config(n_experts=64))
        model.base_model.set_adapter(["default", "second"])
        assert torch.equal(logits(model), logits(tiny("Llama").to(dtype)))


def trained(model):
    return {name for name, p in model.named_parameters() if p.requires_grad}


def test_gradients_go_to_the_active_adapter_alone():
    model = adapted()
    assert trained(model) == {k for k, _ in model.named_parameters() if "peer_" in k}
    model.add_adapter("second", config(layers_to_transform=[0, 1]))
    assert {name.rpartition(".")[2] for name in trained(model)} == {"default"}
    model.set_adapter("second")
    assert {name.rpartition(".")[2] for name in trained(model)} == {"second"}
    model.set_requires_grad("default")
    assert {name.rpartition(".")[2] for name in trained(model)} == {"default", "second"}
    model.set_adapter("default", inference_mode=True)
    assert not trained(model)
    model.set_adapter("default")
    before = trained(model)
    with model.disable_adapter():
        assert not trained(model)
    assert trained(model) == before


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_changes_the_adapter_alone(kind, dtype):
    model = adapted(kind, dtype, layers_to_transform=[1]).train()
    model.add_adapter("resting", config(layers_to_transform=[1]))
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for step in range(2):  # with rows of zero nothing else has a gradient at the first step
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        moved = {
            n.split(".")[-2]
            for n, p in model.named_parameters()
            if p.grad is not None and p.grad.any()
        }
        assert step or moved == {"peer_w_up"}
        optimizer.step()
        optimizer.zero_grad()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if "peer_" in k and k.endswith(".default")}
    assert {v.dtype for k, v in model.state_dict().items() if k in changed} == {torch.float32}


def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = wake(adapted()).train()
        if checkpointing:
            model.base_model.model.gradient_checkpointing_enable()
        model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
        gradients.append([t.grad for layer in peer_layers(model) for t in tensors(layer).values()])
    for plain, checkpointed in zip(*gradients, strict=True):
        assert plain.any()
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_generation_with_a_cache_is_that_without(kind, dtype):
    model = wake(adapted(kind, dtype))
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    cached, uncached = (
        model.generate(input_ids=tokens(), use_cache=cache, **settings) for cache in (True, False)
    )
    assert torch.equal(cached, uncached)
    with model.disable_adapter():
        base = model.generate(input_ids=tokens(), **settings)
    assert torch.equal(base, tiny(kind).to(dtype).generate(tokens(), **settings))
    assert not torch.equal(cached, base)


@pytest.mark.parametrize("kind", KINDS)
def test_under_autocast_the_start_is_exact_too(kind):
    base = tiny(kind)
    with torch.autocast("cpu", torch.bfloat16):
        before = logits(base)
        model = peft.get_peft_model(base, config())
        assert torch.equal(logits(model), before)
        assert not torch.equal(logits(wake(model)), before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_another_type_afterwards_has_the_same_adapter(dtype):
    """With all experts retrieved: else a rounded query finds others."""
    model = wake(adapted(layers_to_transform=1, top_k=16))
    (layer,) = peer_layers(model)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        before = layer(x)
        after = model.to(dtype) and layer(x.to(dtype))
    assert {tensor.dtype for tensor in tensors(layer).values()} == {dtype}
    assert after.dtype == dtype
    # bfloat16 has 8 bits: 2**-8 each of inputs, weights, sums and output
    torch.testing.assert_close(after.float(), before, rtol=0, atol=0.05 * before.abs().max().item())


@pytest.mark.parametrize("kind", KINDS)
def test_an_adapter_of_the_base_s_own_16_bits_is_exact_at_zero_too(kind):
    base = tiny(kind).to(torch.bfloat16)
    before = logits(base)
    model = peft.get_peft_model(base, config(), autocast_adapter_dtype=False)
    (dtype,) = {t.dtype for layer in peer_layers(model) for t in tensors(layer).values()}
    assert dtype == torch.bfloat16
    assert torch.equal(logits(model), before)
    assert torch.isfinite(logits(wake(model))).all()


def test_a_copy_of_the_model_has_adapters_of_its_own():
    model = adapted()
    base = logits(model)
    copied = wake(copy.deepcopy(model))
    assert torch.equal(logits(model), base)
    assert not torch.equal(logits(copied), base)
    assert torch.equal(logits(copied.unload()), base)


def test_merging_is_refused_and_changes_nothing():
    model = wake(adapted())
    before = logits(model)
    for merge in (
        model.merge_adapter,
        model.unmerge_adapter,
        model.merge_and_unload,
        peer_layers(model)[0].merge,
    ):
        with pytest.raises(ValueError, match="each token retrieves experts of its own") as refused:
            merge()
        assert "\n" not in str(refused.value)
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize("form", FORMS)
def test_its_parameters_are_those_that_the_layer_s_cost_counts(form):
    model = adapted(**FORMS[form])
    n_trained, _ = model.get_nb_trainable_parameters()
    assert n_trained == 2 * model.peft_config["default"].layer().cost(32).n_params


def test_all_mlps_are_targets_and_some_can_be_excluded():
    assert adapted(layers_to_transform=None).targeted_module_names == [
        f"model.layers.{block}.mlp" for block in range(3)
    ]
    model = adapted(layers_to_transform=None, exclude_modules=r".*\.1\.mlp")
    assert [layer.path for layer in peer_layers(model)] == [
        "model.layers.0.mlp",
        "model.layers.2.mlp",
    ]
    model = adapted("GPT2", target_modules=r"transformer\.h\.[12]\.mlp", layers_to_transform=None)
    assert len(peer_layers(model)) == 2
    model = adapted("GPT2", layers_to_transform=2, layers_pattern="h")
    assert [layer.path for layer in peer_layers(model)] == ["transformer.h.2.mlp"]


def test_a_model_that_is_none_of_transformers_takes_adapters_too():
    torch.manual_seed(0)
    base = torch.nn.Sequential(torch.nn.Linear(7, 32), torch.nn.Linear(32, 32), torch.nn.ReLU())
    x = torch.randn(5, 7)
    before = base(x)
    model = peft.get_peft_model(base, adapters.PeerConfig(**SMALL, target_modules=["1"]))
    assert torch.equal(model(x), before)
    assert not torch.equal(wake(model)(x), before)


def test_lora_is_as_it_was():
    model = peft.get_peft_model(tiny("Llama"), peft.LoraConfig(target_modules=["q_proj"]))
    assert torch.equal(logits(model), logits(tiny("Llama")))
    assert peft.PeftType("PEER") is peft.PeftType.PEER
    assert "PEER" in list(peft.PeftType)
    assert peft.PeftType("LORA") is peft.PeftType.LORA
