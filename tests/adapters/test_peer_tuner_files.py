"""PEER adapters on disk in peft's own format, and what is refused."""

import copy
import json
import os

import pytest
import torch

from experiments import adapters
from tests.adapters.peers import SMALL, peer_layers, tensors, wake
from tests.conftest import REPOSITORY, python
from tests.init.tiny import VOCABULARY, logits, tiny, tokens

peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
load_file = pytest.importorskip("safetensors.torch").load_file

# peft 0.21 asks transformers 5.24 by names that are on their way out
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
KINDS = ("Llama", "GPT2", "GPTNeoX")


def config(**values):
    chosen = SMALL | {"task_type": "CAUSAL_LM", "layers_to_transform": [0, 2]}
    return adapters.PeerConfig(**chosen | values)


@pytest.fixture(scope="module", params=KINDS)
def folders(request, tmp_path_factory):
    """(a base's folder, its adapter's folder, the logits of the two together)."""
    place = tmp_path_factory.mktemp(request.param)
    base, adapter = place / "base", place / "adapter"
    tiny(request.param).save_pretrained(base)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        model = wake(peft.get_peft_model(loaded(base), config(glu=True))).eval()
        model.save_pretrained(adapter)
    return base, adapter, logits(model)


def loaded(folder):
    return transformers.AutoModelForCausalLM.from_pretrained(folder)


def test_saved_keys_have_no_adapter_s_name_and_the_config_is_whole(folders):
    _, adapter, _ = folders
    stored = load_file(adapter / "adapter_model.safetensors")
    names = ("query", "norm_weight", "norm_bias", "sub_keys", "w_down", "w_gate", "w_up")
    (start,) = {key.partition(".mlp.")[0][:-2] for key in stored}
    assert set(stored) == {f"{start}.{b}.mlp.peer_{name}" for b in (0, 2) for name in names}
    assert stored[f"{start}.2.mlp.peer_w_up"].shape == (16, 32)
    assert {value.dtype for value in stored.values()} == {torch.float32}
    text = json.loads((adapter / "adapter_config.json").read_text())
    assert text["peft_type"] == "PEER"
    assert text["target_modules"] == ["mlp"]
    read = peft.PeftConfig.from_pretrained(adapter)
    assert type(read) is adapters.PeerConfig
    assert read.inference_mode
    read.inference_mode, read.base_model_name_or_path = False, None
    assert read.to_dict() == config(glu=True, target_modules=["mlp"]).to_dict()


@pytest.mark.parametrize("name", ["default", "other", "peer_w_up", "mlp"])
def test_an_adapter_is_read_under_any_name(folders, name):
    base, adapter, expected = folders
    model = peft.PeftModel.from_pretrained(loaded(base), adapter, adapter_name=name)
    assert model.active_adapters == [name]
    assert torch.equal(logits(model), expected)
    assert not any(p.requires_grad for p in model.parameters())
    trainable = peft.PeftModel.from_pretrained(
        loaded(base), adapter, adapter_name=name, is_trainable=True
    )
    assert {n for n, p in trainable.named_parameters() if p.requires_grad} == {
        n for n, _ in trainable.named_parameters() if n.endswith(f".{name}")
    }


def test_other_ways_to_read_it(folders, tmp_path):
    base, adapter, expected = folders
    auto = peft.AutoPeftModelForCausalLM.from_pretrained(adapter)
    assert torch.equal(logits(auto), expected)
    empty = peft.PeftModel.from_pretrained(loaded(base), adapter, low_cpu_mem_usage=True)
    assert torch.equal(logits(empty), expected)
    fresh = peft.get_peft_model(loaded(base), config(glu=True))
    report = peft.set_peft_model_state_dict(fresh, peft.get_peft_model_state_dict(auto))
    assert not report.unexpected_keys
    assert torch.equal(logits(fresh.eval()), expected)
    auto.save_pretrained(tmp_path, safe_serialization=False)
    assert (tmp_path / "adapter_model.bin").exists()
    again = peft.PeftModel.from_pretrained(loaded(base), tmp_path)
    assert torch.equal(logits(again), expected)


def test_under_a_base_of_16_bits_an_adapter_is_float32_and_comes_back(folders, tmp_path):
    base, adapter, _ = folders
    model = peft.PeftModel.from_pretrained(loaded(base).to(torch.bfloat16), adapter)
    stored = load_file(adapter / "adapter_model.safetensors")
    for key, value in peft.get_peft_model_state_dict(model).items():
        assert torch.equal(value, stored[key])
    model.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(loaded(base).to(torch.bfloat16), tmp_path)
    assert torch.equal(logits(again), logits(model))


def test_several_adapters_are_saved_each_to_a_folder_and_read_together(folders, tmp_path):
    base, adapter, expected = folders
    model = peft.PeftModel.from_pretrained(loaded(base), adapter, adapter_name="first")
    model.load_adapter(adapter, adapter_name="same")
    model.add_adapter("second", config(n_experts=64, layers_to_transform=[1]))
    wake(model, "second", seed=1)
    for name in ("first", "same"):
        model.set_adapter(name)
        assert torch.equal(logits(model), expected)
    model.set_adapter("second")
    second = logits(model)
    model.base_model.set_adapter(["first", "second"])
    both = logits(model)
    model.save_pretrained(tmp_path, selected_adapters=["first", "second"])
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["first", "second"]
    model = peft.PeftModel.from_pretrained(loaded(base), tmp_path / "second")
    assert torch.equal(logits(model), second)
    model.load_adapter(tmp_path / "first", adapter_name="later")
    model.base_model.set_adapter(["default", "later"])
    # added in another order
    torch.testing.assert_close(logits(model), both)


def test_a_head_that_is_trained_too_is_saved_with_the_adapter(tmp_path):
    torch.manual_seed(0)
    values = tiny("Llama").config.to_dict() | {"num_labels": 3}
    base = transformers.LlamaForSequenceClassification(transformers.LlamaConfig(**values)).eval()
    base.save_pretrained(tmp_path / "base")
    read = transformers.LlamaForSequenceClassification.from_pretrained
    before = logits(base)
    model = wake(peft.get_peft_model(read(tmp_path / "base"), config(task_type="SEQ_CLS"))).eval()
    head = model.base_model.model.score
    with torch.no_grad():
        head.modules_to_save["default"].weight.mul_(2)
    model.save_pretrained(tmp_path / "adapter")
    again = peft.PeftModel.from_pretrained(read(tmp_path / "base"), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))
    with again.disable_adapter():
        assert torch.equal(logits(again), before)


REFUSED_CONFIGS = {
    "square": ({"n_experts": 1000}, "n_experts=1000 must be a perfect square; nearest: 961, 1024"),
    "too few experts": ({"top_k": 17}, "top_k=17 must be at most n_experts=16"),
    "odd": ({"d_key": 9}, "d_key=9 must be even"),
    "no heads": ({"n_heads": 0}, "n_heads=0 must be at least 1"),
    "text": ({"n_experts": "16"}, "n_experts='16' must be of type int"),
    "flag": ({"glu": "yes"}, "glu='yes' must be of type bool"),
    "batch": ({"query_norm": "batch"}, "query_norm='batch' .*drift.* take query_norm='layer'"),
    "norm": ({"query_norm": "rms"}, "query_norm='rms' is not one of none, layer, batch"),
    "score": ({"score": "max"}, "score='max' is not one of softmax, sigmoid, relu"),
    "activation": ({"activation": "swish"}, "activation='swish' is not one of gelu"),
    "all-linear": ({"target_modules": "all-linear"}, "all-linear.*change the width.*'mlp'"),
    "no targets": ({"target_modules": []}, r"target_modules=\[\] must be a list of modules' names"),
    "no text": ({"target_modules": [3]}, r"target_modules=\[3\] must be a list of modules' names"),
    "no list": ({"exclude_modules": 3}, "exclude_modules=3 must be a list"),
    "pattern": ({"target_modules": "mlp("}, r"target_modules='mlp\(' is no regular expression"),
    "negative": ({"layers_to_transform": [-1]}, r"layers_to_transform=\[-1\] must .* from 0"),
    "no number": ({"layers_to_transform": [True]}, r"layers_to_transform=\[True\] must .* from 0"),
    "no layers": (
        {"layers_to_transform": []},
        r"layers_to_transform=\[\] must be a block's number",
    ),
    "two ways": (
        {"target_modules": ".*mlp", "layers_to_transform": 1},
        r"layers_to_transform=1 needs target_modules as a list.*'\.\*mlp'",
    ),
    "nothing to count": (
        {"layers_to_transform": None, "layers_pattern": "h"},
        "layers_pattern='h' .*give layers_to_transform too",
    ),
}


@pytest.mark.parametrize("name", REFUSED_CONFIGS)
def test_a_config_that_breaks_a_rule_is_refused_in_one_line(name):
    values, message = REFUSED_CONFIGS[name]
    with pytest.raises(ValueError, match=message) as refused:
        config(**values)
    assert "\n" not in str(refused.value)


def test_a_config_file_that_breaks_a_rule_is_refused_too(tmp_path):
    config().save_pretrained(tmp_path)
    path = tmp_path / "adapter_config.json"
    path.write_text(path.read_text().replace('"n_experts": 16', '"n_experts": 15'))
    with pytest.raises(ValueError, match="n_experts=15 must be a perfect square"):
        peft.PeftConfig.from_pretrained(tmp_path)


REFUSED_TARGETS = {
    "unknown": ("Cohere", {}, "MLPs of 'cohere' are not known here .*target_modules=\\['mlp'\\]"),
    "above the last": ("Llama", {"layers_to_transform": [1, 7]}, r"\[1, 7\] names block 7, in"),
    "nowhere": ("GPTNeoX", {"layers_to_transform": 3}, r"=3 names block 3, in which .*\['mlp'\]"),
    "a matrix": (
        "Llama",
        {"target_modules": ["down_proj"]},
        r"model.layers.0.mlp.down_proj \(Linear\) maps 48 features to 32; .*as \['mlp'\]",
    ),
    "a matrix of GPT-2": (
        "GPT2",
        {"target_modules": ["c_fc"]},
        r"transformer.h.0.mlp.c_fc \(Conv1D\) maps 32 features to 128",
    ),
    "the head": (
        "Llama",
        {"target_modules": ["lm_head"], "layers_to_transform": None},
        f"lm_head .* maps 32 features to {VOCABULARY}",
    ),
    "an embedding": (
        "Llama",
        {"target_modules": ["embed_tokens"], "layers_to_transform": None},
        r"the width of model.embed_tokens \(Embedding\) can't be read",
    ),
    "one in another": (
        "Llama",
        {"target_modules": ["self_attn", "q_proj"]},
        "layers.0.self_attn.q_proj is a part of model.layers.0.self_attn, .*name one of them",
    ),
    "shared": ("Llama", {}, "model.layers.0.mlp and model.layers.2.mlp are one module"),
}


@pytest.mark.parametrize("name", REFUSED_TARGETS)
def test_targets_that_are_refused_change_nothing(name):
    kind, values, message = REFUSED_TARGETS[name]
    model = tiny(kind)
    if name == "shared":
        model.model.layers[2].mlp = model.model.layers[0].mlp
    before, modules = copy.deepcopy(model.state_dict()), [*model.modules()]
    with pytest.raises(ValueError, match=message) as refused:
        peft.get_peft_model(model, config(**values))
    assert "\n" not in str(refused.value)
    assert all(a is b for a, b in zip(model.modules(), modules, strict=True))
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.requires_grad for p in model.parameters())


def test_a_model_without_a_known_width_is_refused():
    model = torch.nn.Sequential(torch.nn.Linear(7, 32), torch.nn.ReLU())
    with pytest.raises(ValueError, match=r"the width of 1 \(ReLU\) can't be read from"):
        peft.get_peft_model(model, adapters.PeerConfig(**SMALL, target_modules=["1"]))


def test_a_module_that_gives_no_hidden_states_is_refused_when_it_is_called():
    model = peft.get_peft_model(tiny("Llama"), config(target_modules=["self_attn"]))
    with pytest.raises(ValueError, match=r"layers.0.self_attn maps \(2, 9, 32\) to a tuple") as no:
        logits(model)
    assert "\n" not in str(no.value)


@pytest.mark.parametrize("kind", ["Llama", "GPT2"])
def test_each_sequence_has_its_own_adapter(kind):
    model = wake(peft.get_peft_model(tiny(kind).double(), config()))
    model.add_adapter("other", config(n_experts=64))
    wake(model, "other", seed=1)
    model.double().eval()
    ids = torch.randint(3, 60, (4, 7), generator=torch.Generator().manual_seed(0))
    names = ["other", "__base__", "default", "other"]
    with torch.no_grad():
        together = model(input_ids=ids, adapter_names=names).logits
        for i, name in enumerate(names):
            if name == "__base__":
                with model.disable_adapter():
                    alone = model(input_ids=ids[i : i + 1]).logits
            else:
                model.set_adapter(name)
                alone = model(input_ids=ids[i : i + 1]).logits
            torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-10)
    model.set_adapter("default")
    how = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0}
    for beams in (1, 3):
        made = model.generate(input_ids=ids, adapter_names=names, num_beams=beams, **how)
        for i, name in enumerate(names):
            alone = {"input_ids": ids[i : i + 1], "adapter_names": [name]}
            own = model.generate(**alone, num_beams=beams, **how)
            assert torch.equal(made[i : i + 1, : own.shape[1]], own)
    assert all(layer.rows is None for layer in peer_layers(model))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["default"], "adapter_names has 1 names and .* a batch of 2"),
        (["default", "more"], "adapter_names has more, which the model has not; it has default"),
        ("default", "must be a list of names"),
    ],
)
def test_rows_that_can_not_be_are_refused(names, message):
    model = peft.get_peft_model(tiny("Llama"), config()).eval()
    before = logits(model)
    with pytest.raises(ValueError, match=message):
        model(input_ids=tokens(), adapter_names=names)
    assert torch.equal(logits(model), before)
    with pytest.raises(ValueError, match="is for evaluation"):
        model.train()(input_ids=tokens(), adapter_names=["default", "__base__"])


def test_modules_that_a_batch_shares_have_no_rows():
    model = peft.get_peft_model(tiny("Llama"), config(modules_to_save=["lm_head"])).eval()
    with pytest.raises(ValueError, match="modules_to_save, which the whole batch shares"):
        model(input_ids=tokens(), adapter_names=["default", "__base__"])


def test_an_adapter_of_another_size_is_no_silent_success(folders, tmp_path):
    base, adapter, _ = folders
    model = peft.get_peft_model(loaded(base), config(n_experts=64, glu=True))
    stored = load_file(adapter / "adapter_model.safetensors")
    with pytest.raises(RuntimeError, match="size mismatch"):
        peft.set_peft_model_state_dict(model, stored)


def test_a_base_without_values_gets_an_adapter_with_values():
    with torch.device("meta"):
        base = transformers.LlamaForCausalLM(tiny("Llama").config)
    model = peft.get_peft_model(base, config())
    for layer in peer_layers(model):
        assert not any(t.is_meta for t in tensors(layer).values())
        assert not tensors(layer)["peer_w_up"].any()


WITHOUT = {
    "the package alone": ("import experiments.adapters", ""),
    "another name": ("from experiments.adapters import Nothing", "cannot import name 'Nothing'"),
    "no peft": (
        "sys.modules['peft'] = None; from experiments.adapters import PeerConfig",
        "needs the package peft: pip install -e '.[peft]'",
    ),
    "a later peft": (
        "import types; sys.modules['peft'] = types.ModuleType('peft'); "
        "sys.modules['peft'].__version__ = '0.22.0'; from experiments.adapters import PeerConfig",
        "is written for peft 0.21, and 0.22.0 is installed: pip install -e '.[peft]'",
    ),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_peft_is_imported_when_it_is_asked_for_and_its_absence_is_one_line(name):
    statement, message = WITHOUT[name]
    code = f"import sys; {statement}; assert 'peft' not in sys.modules"
    found = [str(REPOSITORY / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    done = python("-c", code, env=os.environ | {"PYTHONPATH": os.pathsep.join(found)})
    assert (done.returncode != 0) == bool(message)
    assert message in done.stderr
