"""What is saved comes back to the bit, in another process too; what is not ours is refused."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

from experiments.init import load_retrofitted, retrofit, save_retrofitted, unretrofit
from experiments.init.attached import find_layers
from experiments.models.ffn.peer import PEERConfig
from tests.init.tiny import OTHERS, logits, tiny, tokens

transformers = pytest.importorskip("transformers")

CONFIG = PEERConfig(n_experts=64, n_heads=2, top_k=4, d_key=8, query_norm="layer")
SAVED = ("Llama", "Llama tied", "GPT2", "GPTNeoX", "OPT")


def retrofitted(name="Llama", dtype=torch.float32):
    """A model with two different layers that do something, and the base's logits."""
    kind = name.split()[0]
    model = tiny(kind, **({"tie_word_embeddings": True} if "tied" in name else {}))
    if dtype != torch.float32:  # as from_pretrained has it: model.to() rounds the rotary angles too
        with tempfile.TemporaryDirectory() as saved:
            model.save_pretrained(saved)
            model = type(model).from_pretrained(saved, dtype=dtype)
    base = logits(model)
    path = OTHERS[kind][1] if kind in OTHERS else None
    retrofit(model, [0], CONFIG, mlp=path)
    retrofit(model, [2], PEERConfig(n_experts=16, top_k=2, d_key=6, query_norm="none"), mlp=path)
    with torch.no_grad():
        for added in find_layers(model):
            added.layer.w_up.normal_()
    return model, base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", SAVED)
def test_it_comes_back_to_the_bit(tmp_path, name, dtype):
    model, base = retrofitted(name, dtype)
    expected, state = logits(model), model.state_dict()
    folder = save_retrofitted(model, tmp_path / "new" / "folder")
    assert torch.equal(logits(model), expected)  # the one that was saved is as it was
    assert sorted(p.name for p in folder.iterdir()) == [
        "base", "layers.safetensors", "retrofit.json",
    ]  # fmt: skip
    assert [p.name for p in folder.parent.iterdir()] == ["folder"]

    loaded = load_retrofitted(folder)
    assert type(loaded) is type(model)
    assert not loaded.training
    loaded_state = loaded.state_dict()  # tensor by tensor: transformers may draw some again
    assert list(loaded_state) == list(state)
    for key, tensor in state.items():
        assert torch.equal(loaded_state[key], tensor), key
        assert loaded_state[key].dtype == tensor.dtype, key
    assert torch.equal(logits(loaded), expected)
    assert all(p.requires_grad for p in loaded.parameters())
    assert [a.made for a in find_layers(loaded)] == [a.made for a in find_layers(model)]
    assert torch.equal(logits(unretrofit(loaded)), base)


@pytest.mark.parametrize("kind", ["GPT2", "Llama"])  # with biases and without
def test_a_layer_instead_of_an_mlp_comes_back_with_the_mlp(tmp_path, kind):
    model = tiny(kind)
    base = logits(model)
    experts = {"activation": "gelu_tanh"} if kind == "GPT2" else {"activation": "silu", "glu": True}
    config = PEERConfig(n_experts=144, n_heads=1, d_key=8, query_norm="layer", **experts)
    retrofit(model, [1], config, how="replace")
    expected, state = logits(model), model.state_dict()
    assert not torch.equal(expected, base)
    loaded = load_retrofitted(save_retrofitted(model, tmp_path / "folder"))
    assert torch.equal(logits(model), expected)
    assert list(loaded.state_dict()) == list(state)
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in state.items())
    assert torch.equal(logits(loaded), expected)
    assert torch.equal(logits(unretrofit(loaded)), base)
    model.save_pretrained(tmp_path / "theirs")  # read naively: the base, not random weights
    assert torch.equal(logits(type(model).from_pretrained(tmp_path / "theirs")), base)


@pytest.mark.long
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["Llama", "Llama tied", "GPT2", "OPT"])
def test_the_layers_alone_go_back_beside_the_base_to_the_bit(tmp_path, name, dtype):
    model, _ = retrofitted(name, dtype)
    expected = logits(model)
    folder = save_retrofitted(model, tmp_path / "layers", base="me/base")
    assert torch.equal(logits(model), expected)
    assert sorted(p.name for p in folder.iterdir()) == ["layers.safetensors", "retrofit.json"]
    unretrofit(model).save_pretrained(tmp_path / "base")
    assert torch.equal(logits(load_retrofitted(folder, tmp_path / "base")), expected)
    assert load_retrofitted(folder, base=model) is model  # in place
    assert torch.equal(logits(model), expected)


def test_layers_alone_are_refused_beside_another_base(tmp_path):
    model, _ = retrofitted()
    whole = save_retrofitted(model, tmp_path / "whole")
    folder = save_retrofitted(model, tmp_path / "layers", base="me/base")
    base = unretrofit(model)
    with torch.no_grad():
        base.model.norm.weight[3] += 1e-6
    about = json.loads((folder / "retrofit.json").read_text())
    refused = [
        (folder, None, "has the layers alone, and belongs to me/base; get that, and give its fol"),
        (
            folder,
            base,
            r"base has other weights than me/base had when .* \(in float32\); give that",
        ),
        (folder, tiny("GPT2"), "base is a GPT2LMHeadModel, and the layers are of LlamaForCausalLM"),
        (folder, tmp_path / "none", "none can't be read|none/config.json can't be read"),
        (whole, base, "has a base of its own; leave base out"),
    ]
    for where, given, why in refused:
        with pytest.raises(ValueError, match=why) as error:
            load_retrofitted(where, given)
        assert "\n" not in str(error.value)
        assert not any(hasattr(module, "peer") for module in base.modules())
    for noted, why in (({}, "'name'"), (about["base"] | {"dtype": "nn"}, "dtype nn is no type")):
        (folder / "retrofit.json").write_text(json.dumps(about | {"base": noted}))
        with pytest.raises(ValueError, match=f"retrofit.json can't be read: .*{why}"):
            load_retrofitted(folder, base)


def test_the_documents_example_runs(tmp_path, monkeypatch):
    text = (Path(__file__).resolve().parents[2] / "docs" / "retrofit.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    model = tiny("Llama")
    model.save_pretrained("FOLDER")
    names = {}
    exec(blocks[0], names)  # our own text
    assert torch.equal(logits(names["model"]), logits(model))
    exec(blocks[1], names)
    assert torch.equal(logits(names["model"]), logits(model))
    exec(blocks[2], names)
    opt = retrofit(tiny("OPT"), [1], names["config"], mlp=names["mlp"])
    assert len(find_layers(opt)) == 1


def test_a_fresh_process_without_a_network_loads_the_same(tmp_path):
    model, _ = retrofitted()
    folder = save_retrofitted(model, tmp_path / "folder")
    torch.save((tokens(), logits(model)), tmp_path / "expected.pt")
    code = (
        "import sys, torch; from experiments.init import load_retrofitted\n"
        "tokens, expected = torch.load(sys.argv[2])\n"
        "with torch.no_grad(): found = load_retrofitted(sys.argv[1])(input_ids=tokens).logits\n"
        "sys.exit(not torch.equal(found, expected))"
    )
    command = [sys.executable, "-c", code, str(folder), str(tmp_path / "expected.pt")]
    threads = str(torch.get_num_threads())  # runs before may have set it, and sums depend on it
    env = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": threads}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_transformers_does_not_read_the_folder_as_a_base(tmp_path):
    model, base = retrofitted()
    folder = save_retrofitted(model, tmp_path / "folder")
    for kind in (transformers.LlamaForCausalLM, transformers.AutoModelForCausalLM):
        with pytest.raises((OSError, ValueError)):
            kind.from_pretrained(folder)
        assert torch.equal(logits(kind.from_pretrained(folder / "base")), base)


def test_a_folder_of_save_pretrained_reads_as_the_base_and_is_refused_here(tmp_path):
    """The MLP's own weights keep their names there; the layer's are unexpected, and reported."""
    model, base = retrofitted()
    model.save_pretrained(tmp_path)
    naive, report = transformers.LlamaForCausalLM.from_pretrained(
        tmp_path, output_loading_info=True
    )
    assert torch.equal(logits(naive), base)
    assert report["unexpected_keys"] == {k for k in model.state_dict() if ".peer." in k}
    assert not report["missing_keys"]
    with pytest.raises(ValueError, match=r"no retrofit.json; it is transformers' own"):
        load_retrofitted(tmp_path)


def edited(change):
    """retrofit.json, changed."""

    def edit(folder):
        about = json.loads((folder / "retrofit.json").read_text())
        change(about)
        (folder / "retrofit.json").write_text(json.dumps(about))

    return edit


def about(**values):
    return edited(lambda known: known.update(values))


def layer(**values):
    """Values of the first layer."""
    return edited(lambda known: known["layers"][0].update(values))


def layer_config(**values):
    """Values of the first layer's config."""
    return edited(lambda known: known["layers"][0]["config"].update(values))


def base_config(**values):
    """Values of the base's config.json."""

    def configure(folder):
        path = folder / "base" / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return configure


def truncated(name):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-10])


def drop_a_weight(folder):
    import safetensors.torch

    path = folder / "base" / "model.safetensors"
    tensors = safetensors.torch.load_file(path)
    del tensors["model.layers.1.mlp.up_proj.weight"]
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt"})


MLP = "model.layers.0.mlp"
KERNEL = {"attn_implementation": {"": "owner/kernel"}}
DAMAGED = [
    (about(format=2), r"retrofit.json can't be read: format 2 is not 1"),
    (lambda folder: (folder / "retrofit.json").write_text("{"), "retrofit.json can't be read"),
    (edited(lambda known: known.pop("layers")), "can't be read: 'layers'"),
    (about(model="PeerForCausalLM"), "has no class 'PeerForCausalLM'"),
    (about(model="AutoModelForCausalLM"), "'AutoModelForCausalLM' of transformers is no model"),
    (about(model="pipeline"), "is no model"),
    (
        base_config(auto_map={"AutoModelForCausalLM": "payload.X"}),
        "auto_map names code that is not of transformers",
    ),
    (base_config(text_config=KERNEL), "attn_implementation names code that is not of transformers"),
    (layer_config(n_expert=3), "n_expert: unknown key; did you mean config.n_experts"),
    (layer(paths=["model.layers.7.mlp"]), "model.layers.7.mlp names no module"),
    (layer_config(n_experts=81), r"layers.safetensors does not fit block 0 .*size mismatch"),
    (
        layer(how="Replace"),
        r"retrofit.json can't be read: how='Replace' is not one of beside, copies, replace",
    ),
    (layer(constant="yes"), "constant='yes' must be of type bool"),
    (layer(paths=[MLP] * 3), "paths=.* must be the MLP's or, of a layer beside it, two"),
    (
        layer(how="replace", paths=["model", "lm_head"]),
        r"paths=\['model', 'lm_head'\] must be the MLP's or",
    ),
    (
        edited(lambda known: known["layers"].append(known["layers"][0])),
        "two layers are of one block",
    ),
    (about(layers=3), "retrofit.json can't be read"),
    (edited(lambda known: known["layers"].pop()), r"layers.safetensors has blocks.2.*of no layer"),
    (truncated("layers.safetensors"), "layers.safetensors can't"),
    (truncated("base/model.safetensors"), "base can't be read"),
    (drop_a_weight, "base is not whole: missing_keys model.layers.1.mlp.up_proj"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    torch.manual_seed(0)
    return save_retrofitted(retrofitted()[0], tmp_path_factory.mktemp("saved") / "folder")


@pytest.mark.parametrize(("damage", "message"), DAMAGED)
def test_damage_is_named(folder, tmp_path, damage, message):
    copied = shutil.copytree(folder, tmp_path / "copied")
    damage(copied)
    with pytest.raises(ValueError, match=message) as refused:
        load_retrofitted(copied)
    assert "\n" not in str(refused.value)


def test_refused_before_anything_is_written(tmp_path):
    model, _ = retrofitted()
    (tmp_path / "there").mkdir()
    with pytest.raises(ValueError, match="there exists; name a new folder"):
        save_retrofitted(model, tmp_path / "there")
    with pytest.raises(ValueError, match="no layer of retrofit"):
        save_retrofitted(tiny("Llama"), tmp_path / "new")
    model.__class__ = type("LlamaForCausalLM", (type(model),), {})  # as remote code's, or a user's
    with pytest.raises(ValueError, match="LlamaForCausalLM is no class of transformers itself"):
        save_retrofitted(model, tmp_path / "new")
    with pytest.raises(ValueError, match=r"missing has no retrofit.json; name a folder of"):
        load_retrofitted(tmp_path / "missing")
    assert [p.name for p in tmp_path.iterdir()] == ["there"]


def test_a_failed_write_leaves_the_model_and_the_disk_as_they_were(tmp_path, monkeypatch):
    model, _ = retrofitted()
    expected = logits(model)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(model), "save_pretrained", full)
    with pytest.raises(RuntimeError, match="folder can't be written: No space left"):
        save_retrofitted(model, tmp_path / "folder")
    assert list(tmp_path.iterdir()) == []
    assert torch.equal(logits(model), expected)
