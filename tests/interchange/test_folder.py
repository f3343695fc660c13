"""A folder that was exported, as transformers reads it: the same numbers, and the same tensors."""

import functools
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace

import pytest
import torch

from experiments.config.hydra_hints import choice_names
from experiments.config.nodes import make_node
from experiments.init.exported import check_export, exported_shape, exported_state, layer_node
from experiments.init.huggingface import HuggingFaceFolder
from experiments.interchange import folder as interchange_folder
from experiments.interchange.folder import check_folder
from experiments.models.generation import Sampling, generate
from tests.interchange.models import (
    CAUSAL,
    MODELS,
    NATIVE,
    VOCABULARY,
    built,
    exported,
    loaded,
    of_node,
)
from tests.rounding import assert_rounding

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.usefixtures("hub_modules")


@pytest.fixture(scope="module")
def folders(tmp_path_factory, vocabulary):
    """folders(name): the exported model's folder, written once."""
    parent = tmp_path_factory.mktemp("exports")

    def get(name):
        if not (parent / name).exists():
            exported(built(name), parent / name, vocabulary, name)
        return parent / name

    return get


@pytest.fixture(scope="module")
def read(folders):
    """read(name): what transformers reads of it, once; for looking at alone."""
    return functools.cache(lambda name: loaded(folders(name)))


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_logits_and_tensors_are_ours(name, read):
    """Compared one by one: a tensor that loading draws again is in no list of missing ones."""
    model, theirs = built(name), read(name)
    assert type(theirs).__name__ == f"{NATIVE.get(name, 'Experts')}ForCausalLM"
    tokens = torch.randint(1, VOCABULARY, (2, 32))
    ours = model(tokens)
    assert ours.std() > 0.5
    assert_rounding(theirs(tokens).logits, ours, n_blocks=2)
    if name not in NATIVE:
        own, found = model.state_dict(), theirs.state_dict()
        assert found.keys() == own.keys()
        assert all(torch.equal(found[key], own[key].to(found[key].dtype)) for key in own)


@pytest.mark.parametrize("name", [name for name in MODELS if name not in NATIVE])
def test_import_of_an_export_is_the_identity(name, folders):
    model = built(name)
    shape = check_export(folders(name))
    state = exported_state(folders(name), shape)
    config = model.config
    assert tuple(of_node(node) for node in shape.ffns) == config.ffns
    assert (shape.d_model, shape.d_head, shape.n_layers) == (32, 8, len(config.ffns))
    assert (shape.norm, shape.positions) == (make_node(config.norm), make_node(config.positions))
    assert (shape.tie_head, shape.vocab_size) == (config.tie_head, VOCABULARY)
    assert shape.attention == make_node(config.attention.explicit(4))
    own = model.state_dict()
    assert state.keys() == own.keys()
    for key, tensor in own.items():
        assert state[key].dtype == tensor.dtype
        assert torch.equal(state[key], tensor), key


@pytest.mark.parametrize("name", MODELS)
def test_a_run_starts_from_an_export_of_either_form(name, folders, tmp_path):
    """What init=hf init.path=FOLDER reads: the trunk, and tensors to the bit."""
    model, source = built(name), HuggingFaceFolder(path=str(folders(name)))
    shape, state = source.shape(tmp_path), source.state(tmp_path)
    read = [of_node(node) for node in shape.ffns]
    if name in NATIVE:  # a Llama says the hidden units alone
        read = [
            replace(one, width_factor=ours.width_factor)
            for one, ours in zip(read, model.config.ffns)
        ]
    assert tuple(read) == model.config.ffns
    own = model.state_dict()
    assert state.keys() == own.keys()
    assert all(torch.equal(state[key].to(own[key].dtype), own[key]) for key in own)
    assert len(source.digest(tmp_path)) == 64
    assert source.tokenizer(tmp_path)["name"] == str(folders(name))


def greedy(model, prompt, n, end):
    return list(generate(model, prompt, n_tokens=n, end=end, sampling=Sampling()))


@torch.no_grad()
@pytest.mark.parametrize("name", CAUSAL)
def test_greedy_texts_are_ours_token_by_token(name, read, vocabulary):
    model, theirs = built(name), read(name)
    prompt = [7, 30, 31, 200]
    ours = greedy(model, prompt, 24, vocabulary.end_of_text)
    options = {"max_new_tokens": 24, "do_sample": False, "pad_token_id": 0}
    for use_cache in (True, False):
        ids = theirs.generate(torch.tensor([prompt]), use_cache=use_cache, **options)[0].tolist()
        assert [i for i in ids[4:] if i != vocabulary.end_of_text] == ours


@torch.no_grad()
@pytest.mark.parametrize("name", ["peer", "none"])
def test_padding_on_the_left_changes_nothing(name, read):
    theirs = read(name)
    short, long = [5, 6, 7], [9, 8, 7, 6, 5, 4]
    ids = torch.tensor([[0, 0, 0, *short], long])
    mask = torch.tensor([[0, 0, 0, 1, 1, 1], [1] * 6])
    options = {"max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    both = theirs.generate(ids, attention_mask=mask, **options)
    for row, prompt in zip(both, (short, long)):
        alone = theirs.generate(torch.tensor([prompt]), **options)[0, len(prompt) :]
        assert row[6 : 6 + len(alone)].tolist() == alone.tolist()


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_our_models_can_be_pickled(name):
    model, tokens = built(name), torch.randint(1, VOCABULARY, (1, 8))
    assert torch.equal(pickle.loads(pickle.dumps(model))(tokens), model(tokens))


def test_gradients_reach_every_parameter(folders):
    theirs = loaded(folders("peer")).train()
    tokens = torch.randint(1, VOCABULARY, (2, 16))
    theirs(tokens, labels=tokens).loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in theirs.parameters())


class Chosen:
    """Experts of one layer's tokens, as FFN.meter is given them."""

    def add(self, indices, gates):
        self.experts, self.dtype = indices.sort(-1).values, gates.dtype


@torch.no_grad()
def test_half_precision_moves_logits_by_other_experts_alone(folders):
    """Gates stay float32, and tokens with the experts of float32 are as near as with dense."""
    texts = torch.arange(VOCABULARY)[:, None]  # of one token, which no other's experts reach

    def said(name, dtype):
        model, meter = loaded(folders(name), dtype=dtype), Chosen()
        for block in getattr(model, "blocks", ()):
            block.ffn.meter = meter
        return model(texts).logits[:, 0].float(), meter

    def moved(name):
        (whole, meter), (half, other) = (said(name, d) for d in (torch.float32, torch.bfloat16))
        return (half - whole).abs().amax(-1) / whole.std(), meter, other

    dense, *_ = moved("dense")
    for name in ("peer", "peer_half", "pkm", "sgatlin", "ultramem"):
        far, meter, other = moved(name)
        same = (meter.experts == other.experts).all(-1)
        assert other.dtype == torch.float32, name
        assert 0.8 < same.float().mean() < 1, name
        assert far[same].max() < 2 * dense.max() < far[~same].max(), name


def test_expert_choice_is_marked_and_does_not_generate(folders):
    folder = folders("moe")
    assert json.loads((folder / "config.json").read_text())["causal"] is False
    assert "Not causal" in (folder / "README.md").read_text()
    theirs = loaded(folder)
    with pytest.raises(ValueError, match=r"expert choice.*can't generate"):
        theirs.generate(torch.tensor([[1, 2]]))
    with pytest.raises(ValueError, match="expert choice"):
        theirs(torch.tensor([[1, 2, 3, 4]]), use_cache=True)


def test_the_tokenizer_is_the_runs(folders, vocabulary):
    for name, trusted in (("dense", False), ("dense_glu", False), ("peer", True), ("peer", False)):
        tokenizer = transformers.AutoTokenizer.from_pretrained(
            folders(name), trust_remote_code=trusted
        )
        for text in ("the cat sat on a mat .\n", " two  blanks, é and 字", ""):
            ids = vocabulary.tokenizer().encode(text).ids
            assert tokenizer(text)["input_ids"] == ids
            assert tokenizer.decode(ids) == text
        assert tokenizer.eos_token_id == vocabulary.end_of_text
        assert len(tokenizer) == VOCABULARY


@pytest.mark.parametrize("reader", ["LlamaForCausalLM", "ArceeForCausalLM", "MistralForCausalLM"])
def test_another_architecture_does_not_read_it_silently(reader, folders):
    """It would start from random weights: none of the names is known to it."""
    with pytest.raises(KeyError, match="expert_isoflops: see ffns"):
        getattr(transformers, reader).from_pretrained(folders("peer"))


def test_missing_tensors_are_an_error(folders, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "torn"
    shutil.copytree(folders("peer"), folder)
    state = load_file(folder / "model.safetensors")
    del state["blocks.0.ffn.w_up"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"missing_keys.*w_up"):
        loaded(folder)
    with pytest.raises(ValueError, match=r"w_up is of size None, and config.json says \(64, 32\)"):
        HuggingFaceFolder(path=str(folder)).shape(tmp_path)


def test_code_needs_consent(folders):
    with pytest.raises(ValueError, match="trust_remote_code"):
        loaded(folders("peer"), trust_remote_code=False)


@pytest.mark.levels
def test_documents_alone_are_computed_as_they_were_trained(vocabulary, tmp_path):
    """The mask at the ends of documents can't be said; the card says so."""
    model = built("peer", document_end=vocabulary.end_of_text)
    exported(model, tmp_path / "masked", vocabulary)
    card = (tmp_path / "masked" / "README.md").read_text()
    assert "give it one document at a time" in " ".join(card.split())
    theirs = loaded(tmp_path / "masked")
    tokens = torch.randint(1, VOCABULARY, (2, 16))
    with torch.no_grad():
        ours = model(tokens)
        assert_rounding(theirs(tokens).logits, ours, n_blocks=2)


@pytest.mark.levels
@torch.no_grad()
@pytest.mark.parametrize("name", ["dense", "peer"])
def test_low_rank_adapters_are_added_into_their_matrices(name, vocabulary, tmp_path):
    model, tokens = built(name, lora_rank=2), torch.randint(1, VOCABULARY, (2, 16))
    without = built(name)
    without.load_state_dict(model.state_dict(), strict=False)
    ours = model(tokens)
    assert (ours - without(tokens)).abs().max() > 0.1
    exported(model, tmp_path / "out", vocabulary, name)
    theirs = loaded(tmp_path / "out")
    assert_rounding(theirs(tokens).logits, ours, n_blocks=2)


@pytest.mark.parametrize("name", MODELS)
def test_settings_of_layers_come_back(name):
    for config in MODELS[name][0]:
        assert of_node(layer_node(config)) == config


@pytest.mark.parametrize("name", [n for n in choice_names("model") if n != "weights"])
def test_every_layer_of_conf_has_a_form(name, compose_raw):
    config = of_node(compose_raw(f"model={name}")["model"])
    assert of_node(layer_node(config)) == config


def test_a_class_that_no_name_finds_is_refused():
    @dataclass(frozen=True)
    class Mine:
        pass

    with pytest.raises(ValueError, match=r"Mine is no dataclass of a module.*top of a file"):
        layer_node(Mine())


def test_an_earlier_export_is_read(folders, tmp_path):
    """Layers had short names, and hidden units beside the fields."""
    shutil.copytree(folders("beside"), tmp_path / "earlier")
    path = tmp_path / "earlier" / "config.json"
    values = json.loads(path.read_text())
    beside, dense = values["ffns"]
    for kind, node in (("dense", dense), ("peer", beside["trained"]), ("beside", beside)):
        node |= {"kind": kind}
        del node["_target_"]
    beside["frozen"] = {**dense, "glu": True}
    dense["d_ff"] = 128
    path.write_text(json.dumps(values))
    nodes = exported_shape(tmp_path / "earlier").ffns
    assert tuple(map(of_node, nodes)) == MODELS["beside"][0]


def test_a_folder_is_replaced_by_the_same_run_alone(vocabulary, tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    exported(built("none"), folder, vocabulary)  # an empty one
    before = (folder / "model.safetensors").read_bytes()
    exported(built("peer"), folder, vocabulary)
    assert (folder / "model.safetensors").read_bytes() != before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ValueError, match=r"is an export of the run 0123456789ab; name another"):
        exported(built("peer"), folder, vocabulary, run_id="ffffffffffff")
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds notes.txt beside an earlier export"):
        exported(built("peer"), folder, vocabulary)
    assert exported_shape(folder).n_layers == 2


def test_folders_of_others_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"file is a file; name a new folder"):
        check_folder(tmp_path / "file", "0123456789ab")
    with pytest.raises(ValueError, match=r"is not empty, and no earlier export"):
        check_folder(tmp_path, "0123456789ab")


def test_an_error_in_the_middle_leaves_the_earlier_export(vocabulary, tmp_path, monkeypatch):
    folder = tmp_path / "out"
    exported(built("none"), folder, vocabulary)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(interchange_folder, "are_equal", lambda *_: False)
    with pytest.raises(RuntimeError, match="weights read back are not those written"):
        exported(built("peer"), folder, vocabulary)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_damaged_exports_are_one_line(folders, tmp_path):
    shutil.copytree(folders("peer"), tmp_path / "torn")
    weights = tmp_path / "torn" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model.safetensors can't be read, or is cut short"):
        check_export(tmp_path / "torn")
    (tmp_path / "torn" / "config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"config.json is not the config of an export"):
        check_export(tmp_path / "torn")


FRESH = """
import sys, torch
from pathlib import Path
from transformers import AutoModelForCausalLM
sys.modules["experiments"] = None  # an import of it fails
tokens = torch.load(sys.argv[1])
for folder in sys.argv[2:]:
    model = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True).eval()
    with torch.no_grad():
        torch.save((model(tokens).logits, model.state_dict()), f"{Path(folder).name}.pt")
"""


def test_a_fresh_process_without_us_reads_the_same(folders, tmp_path):
    tokens = torch.randint(1, VOCABULARY, (2, 32))
    torch.save(tokens, tmp_path / "tokens.pt")
    places = [str(folders(name)) for name in MODELS]
    settings = {"HF_HUB_OFFLINE": "1", "HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(
        [sys.executable, "-c", FRESH, str(tmp_path / "tokens.pt"), *places],
        capture_output=True, text=True, check=False, cwd=tmp_path, env={**os.environ, **settings},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for name in MODELS:
        model = built(name)
        logits, state = torch.load(tmp_path / f"{name}.pt")
        with torch.no_grad():
            assert_rounding(logits, model(tokens), n_blocks=2)
        if name not in NATIVE:
            for own, tensor in model.state_dict().items():
                assert torch.equal(state[own], tensor.to(state[own].dtype)), (name, own)
