"""A layer in a transformers model: the same function at the start, the same model without it."""

import copy
import dataclasses

import pytest
import torch

from experiments.init import freeze_base, retrofit, unretrofit
from experiments.init.attached import find_layers
from experiments.init.mlp_neurons import read_mlp
from experiments.init.slots import find_slots, slots_at
from experiments.models.ffn.peer import PEERConfig
from experiments.models.ffn.stem import StemConfig
from tests.init.tiny import BUILT_IN, LAYERS, OTHERS, SIZES, logits, tiny, tokens

pytest.importorskip("transformers")

CONFIG = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8, query_norm="layer")
OPT = OTHERS["OPT"][1]


def path_in(kind):
    """Argument mlp: None where the architecture is built in."""
    return OTHERS[kind][1] if kind in OTHERS else None


def wake(model):
    """Gives the layers output rows, so that they do something."""
    with torch.no_grad():
        for added in find_layers(model):
            added.layer.w_up.normal_()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", [*BUILT_IN, *OTHERS])
def test_beside_changes_no_logit_and_goes_without_a_trace(kind, dtype):
    model = tiny(kind).to(dtype)
    keys = list(model.state_dict())
    for training in (False, True):
        model.train(training)
        base = logits(model)
        assert retrofit(model, [0, 2], CONFIG, mlp=path_in(kind)) is model
        assert {module.training for module in model.modules()} == {training}
        assert torch.equal(logits(model), base)
        wake(model)
        assert not torch.equal(logits(model), base)
        assert unretrofit(model) is model
        assert torch.equal(logits(model), base)
        assert list(model.state_dict()) == keys


def test_the_output_is_the_mlps_plus_the_layers():
    model = tiny("Llama").double()
    mlp = model.model.layers[1].mlp
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    base = mlp(x)
    retrofit(model, [1], CONFIG)
    wake(model)
    layer = mlp.peer.layer
    assert layer.w_up.dtype == torch.float64
    assert torch.equal(mlp(x), base + layer(x))
    assert (mlp(x) - base).abs().max() > 0.01


def test_a_pair_gets_the_input_of_the_first_module():
    model = tiny("OPT").double()
    retrofit(model, [1], CONFIG, mlp=OPT)
    wake(model)
    block = model.model.decoder.layers[1]
    x = torch.randn(2, 5, 32, dtype=torch.float64)
    y = block.fc2(torch.relu(block.fc1(x)))
    hidden = torch.relu(x @ block.fc1.weight.t() + block.fc1.bias)
    base = hidden @ block.fc2.weight.t() + block.fc2.bias
    torch.testing.assert_close(y, base + block.fc2.peer.layer(x))


@pytest.mark.parametrize("kind", ["Llama", "OPT"])
def test_under_autocast_the_start_is_exact_too(kind):
    model = tiny(kind)
    with torch.autocast("cpu", torch.bfloat16):
        base = logits(model)
        retrofit(model, [0, 2], CONFIG, mlp=path_in(kind))
        assert torch.equal(logits(model), base)
        wake(model)
        assert not torch.equal(logits(model), base)


def test_dropout_draws_what_it_drew():
    model = tiny("GPT2", resid_pdrop=0.5, embd_pdrop=0.5).train()
    base = logits(model)
    state = torch.get_rng_state()
    retrofit(model, [1], CONFIG)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(logits(model), base)


def test_the_seed_makes_the_layer():
    models = [retrofit(tiny("Llama"), [0, 2], CONFIG, seed=seed) for seed in (3, 3, 4)]
    first, same, other = (find_layers(model) for model in models)
    assert torch.equal(first[0].layer.w_down, same[0].layer.w_down)
    assert not torch.equal(first[0].layer.w_down, other[0].layer.w_down)
    assert not torch.equal(first[0].layer.w_down, first[1].layer.w_down)
    one = find_layers(retrofit(tiny("Llama"), [2], CONFIG, seed=3))  # whatever other blocks get
    assert torch.equal(one[0].layer.w_down, first[1].layer.w_down)


@pytest.mark.parametrize("kind", ["GPT2", "Llama", "OPT"])
def test_a_training_step_changes_the_layer_alone(kind):
    model = tiny(kind).train()
    freeze_base(retrofit(model, [1], CONFIG, mlp=path_in(kind)))
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    for _ in range(2):  # with zero rows nothing else of the layer has a gradient at the first step
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    changed = {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed == {k for k in before if ".peer." in k}
    frozen = {k for k, p in model.named_parameters() if not p.requires_grad}
    assert frozen == {k for k, _ in model.named_parameters() if ".peer." not in k}


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable`:FutureWarning")  # new in 5.24
def test_gradient_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny("Llama").train()
        freeze_base(retrofit(model, [0, 2], CONFIG))
        torch.manual_seed(0)
        wake(model)
        if checkpointing:
            model.gradient_checkpointing_enable()
        model(input_ids=tokens(), labels=tokens(), use_cache=False).loss.backward()
        gradients.append([a.layer.w_down.grad for a in find_layers(model)])
    for plain, checkpointed in zip(*gradients):
        assert plain.abs().max() > 0
        assert torch.equal(plain, checkpointed)


@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Llama", "OPT"])
def test_generation_with_a_cache_is_that_without(kind):
    model = tiny(kind)
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    base = model.generate(tokens(), **settings)
    retrofit(model, [0, 2], CONFIG, mlp=path_in(kind))
    assert torch.equal(model.generate(tokens(), **settings), base)
    wake(model)
    cached, uncached = (model.generate(tokens(), use_cache=c, **settings) for c in (True, False))
    assert torch.equal(cached, uncached)
    assert not torch.equal(cached, base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64], ids=str)
def test_a_model_of_another_type_afterwards_has_the_same_layer(dtype):
    """With all experts retrieved: else a rounded query finds others."""
    everything = dataclasses.replace(CONFIG, n_experts=16, top_k=16)
    model = retrofit(tiny("Llama"), [1], everything)
    wake(model)
    mlp = model.model.layers[1].mlp
    x = torch.randn(2, 5, 32)
    before = mlp(x)
    after = mlp.to(dtype)(x.to(dtype))
    assert after.dtype == dtype
    # bfloat16 has 8 bits: 2**-8 each of inputs, weights, sums and output
    largest = before.abs().max().item()
    torch.testing.assert_close(after.float(), before, rtol=0, atol=0.05 * largest)


def test_a_model_without_its_head_has_the_same_blocks():
    model = tiny("GPT2")
    retrofit(model.transformer, [1], CONFIG)
    assert [a.made.paths for a in find_layers(model)] == [("h.1.mlp",)]


EXPERTS = {  # what the experts of each must be, to be the MLP's neurons
    "GPT2": {"activation": "gelu_tanh"},
    "GPTNeoX": {"activation": "gelu"},
    "Llama": {"activation": "silu", "glu": True},
    "Starcoder2": {"activation": "gelu_tanh"},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("kind", EXPERTS)
def test_copies_change_no_logit_and_read_what_the_mlp_reads(kind, dtype):
    model = tiny(kind).to(dtype)
    config = dataclasses.replace(CONFIG, n_experts=144, **EXPERTS[kind])  # of 48 or 128 neurons
    for training in (False, True):
        model.train(training)
        base = logits(model)
        retrofit(model, [0, 2], config, how="copies", mlp=path_in(kind), noise=0.0)
        assert torch.equal(logits(model), base)
        added = find_layers(model)[1]
        (slot,) = slots_at(model, {2: added.made.paths})
        neurons = read_mlp(slot).neurons
        # without noise each expert is a neuron, and each neuron an expert
        same = (added.layer.w_down.detach().unsqueeze(1) == neurons.w_down).all(-1)
        assert same.any(0).all()
        assert same.any(1).all()
        freeze_base(model)
        model(input_ids=tokens(), labels=tokens()).loss.backward()
        assert added.layer.w_up.grad.abs().max() > 0  # alive at the first step
        model.zero_grad()
        unretrofit(model).requires_grad_(True)
        assert torch.equal(logits(model), base)


def test_copies_are_the_same_by_seed_and_differ_by_noise():
    config = dataclasses.replace(CONFIG, **EXPERTS["Llama"])

    def w_down(**options):
        model = retrofit(tiny("Llama"), [1], config, how="copies", **options)
        return find_layers(model)[0].layer.w_down

    assert torch.equal(w_down(), w_down(noise=0.1, seed=0))
    assert not torch.equal(w_down(), w_down(noise=0.2))


@pytest.mark.parametrize("kind", ["GPT2", "GPTNeoX", "Llama", "Llama mlp_bias"])
def test_replace_with_all_neurons_at_unit_gate_is_the_mlp(kind):
    values = {"mlp_bias": True} if "bias" in kind else {}
    kind = kind.split()[0]
    model = tiny(kind, **values)
    keys, base = list(model.state_dict()), logits(model)
    (slot,) = find_slots(model, [1], None)
    x = torch.randn(2, 5, 32)
    with torch.no_grad():
        expected = slot.last(x)
    n_units = 144 if kind == "GPT2" else 49  # of 128 and 48: the next square
    sizes = {"n_experts": n_units, "n_heads": 1, "top_k": n_units}
    config = dataclasses.replace(CONFIG, **sizes, **EXPERTS[kind])
    retrofit(model, [0, 1, 2], config, how="replace")
    for added in find_layers(model):
        assert added.layer.w_down.shape[1] == 32 + (kind != "Llama" or bool(values))
        with torch.no_grad():
            added.layer.sub_keys.zero_()  # equal scores, so the gates are 1 / k
    with torch.no_grad():
        found = model.get_submodule(slot.paths[0])(x)
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert (logits(model) - base).abs().max() <= 1e-5 * base.abs().max()  # through three blocks
    assert set(keys) < set(model.state_dict())  # the MLPs' own are still among them
    assert torch.equal(logits(unretrofit(model)), base)
    assert list(model.state_dict()) == keys


def test_what_is_replaced_goes_where_the_model_goes_and_is_not_trained():
    model = tiny("GPT2")
    base = logits(model)
    config = dataclasses.replace(CONFIG, n_experts=144, n_heads=1, top_k=16, **EXPERTS["GPT2"])
    retrofit(model, [1], config, how="replace").train()
    model(input_ids=tokens(), labels=tokens()).loss.backward()
    assert not any(p.requires_grad and p.grad is None for p in model.parameters())
    copied = copy.deepcopy(model).double()
    unretrofit(copied)
    assert {p.dtype for p in copied.parameters()} == {torch.float64}
    assert all(p.requires_grad for p in copied.parameters())
    assert copied.transformer.h[1].mlp.training
    torch.testing.assert_close(logits(copied).float(), base)
    assert torch.equal(logits(unretrofit(model).eval()), base)


REFUSED = [
    ("Llama", {"blocks": [3]}, r"blocks=\[3\] .*model.layers are 0 to 2"),
    ("Llama", {"blocks": [-1]}, r"blocks=\[-1\] .*0 to 2"),
    ("Llama", {"blocks": []}, r"blocks=\[\] must name at least one"),
    ("Llama", {"blocks": ["1"]}, r"blocks=\['1'\]"),
    ("Llama", {"blocks": [1, 1]}, "names a block twice"),
    ("Llama", {"how": "instead"}, "how='instead' is not one of beside, copies, replace"),
    ("Llama", {"config": PEERConfig()}, "query_norm='batch' .* take query_norm='layer'"),
    ("Cohere", {}, r"MLPs of 'cohere' .*mlp='auto' .*perhaps mlp='model.layers.\{\}.mlp'"),
    ("Llama", {"mlp": "model.layers.1.mlp"}, "must have one {}"),
    (
        "Llama",
        {"mlp": "model.layers.{}.ffn"},
        r"model.layers.0.ffn names no module of LlamaForCausalLM; .*model.layers.\{\}.mlp",
    ),
    ("Llama", {"mlp": "blocks.{}.mlp"}, "blocks names no module"),
    ("OPT", {"mlp": OPT[1]}, r"fc2 maps \(2, 48\) to \(2, 32\)"),
    ("Llama", {"noise": -0.1}, "noise=-0.1 must be at least 0"),
    ("Llama", {"seed": -1}, "seed=-1 must be at least 0"),
    ("Llama", {"how": "copies"}, "glu=false, but .*give glu=true"),
    ("GPT2", {"how": "copies"}, "activation=gelu is not the FFN's: give activation=gelu_tanh"),
    (
        "Mixtral",
        {"how": "copies", "mlp": LAYERS},
        r"model.layers.0.mlp \(MixtralSparseMoeBlock\) .*take how='beside'",
    ),
    ("OPT", {"how": "replace", "mlp": OPT}, "two modules: .*how='beside'"),
    (
        "GPT2",
        {"how": "replace", "config": dataclasses.replace(CONFIG, activation="gelu_tanh")},
        "n_experts=64 is too few .*128 hidden units.*n_experts=144",
    ),
    ("Llama", {"mlp": "model.layers.{}.self_attn"}, "to a tuple"),
    ("Llama", {"config": StemConfig(vocab_size=99)}, "its input alone, and not Stem"),
    ("Llama", {"mlp": "model.layers.{}.mlp.unused"}, "not called in a forward pass"),
    ("ViT", {"mlp": "vit.layers.{}.mlp"}, "needs a causal language model"),
]


@pytest.mark.parametrize(("kind", "options", "message"), REFUSED)
def test_what_is_refused_changes_nothing(kind, options, message):
    model = vision() if kind == "ViT" else tiny(kind)
    if kind == "Llama":
        model.get_submodule(LAYERS.format(0)).unused = torch.nn.Linear(3, 3)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=message) as refused:
        retrofit(model, **{"blocks": [0], "config": CONFIG, **options})
    assert "\n" not in str(refused.value)
    assert list(model.state_dict()) == list(before)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def vision():
    import transformers

    sizes = {k: SIZES[k] for k in ("hidden_size", "intermediate_size", "num_attention_heads")}
    config = transformers.ViTConfig(num_hidden_layers=2, image_size=8, patch_size=4, **sizes)
    return transformers.ViTForImageClassification(config)


def test_a_block_takes_one_layer():
    model = retrofit(tiny("Llama"), [1], CONFIG)
    with pytest.raises(ValueError, match=r"block 1 has a layer .*model.layers.1.mlp; .*unretrofit"):
        retrofit(model, [0, 1], CONFIG)
    assert len(find_layers(model)) == 1
    retrofit(model, [0], CONFIG)
    assert [added.made.block for added in find_layers(model)] == [0, 1]


def test_a_model_without_values_is_refused():
    import transformers

    with torch.device("meta"):
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**BUILT_IN["Llama"]))
    with pytest.raises(ValueError, match="no values yet"):
        retrofit(model, [1], CONFIG)


def test_blocks_that_share_their_mlp_take_one_layer():
    model = tiny("Llama")
    model.model.layers[2].mlp = model.model.layers[0].mlp
    with pytest.raises(ValueError, match=r"blocks=\[0, 2\] share one MLP"):
        retrofit(model, [0, 2], CONFIG)
    base = logits(model)
    retrofit(model, [0], CONFIG)
    wake(model)
    assert not torch.equal(logits(model), base)
    assert torch.equal(logits(unretrofit(model)), base)


def test_nothing_to_take_out_is_an_error():
    with pytest.raises(ValueError, match="has no layer of retrofit"):
        unretrofit(tiny("Llama"))
