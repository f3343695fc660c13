"""Random tiny models that transformers writes, read into our trunk, beside transformers itself."""

import dataclasses
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from experiments.config.reading import build
from experiments.data.folders import identity
from experiments.data.tokenizer import train_bpe
from experiments.data.vocabulary import prepare_vocabulary
from experiments.init.completion import completed
from experiments.init.huggingface import HuggingFaceFolder
from experiments.init.llama import from_trunk
from tests.conftest import Nursery
from tests.init.tiny import tiny
from tests.init.trunks import loaded, trunk_config
from tests.rounding import assert_rounding

CACHE = Path("unused")
SHARD = "model-00001-of-00003.safetensors"
# Mistral's window is as long as what is scored. An Arcee has no gate, and may have our activations
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "tied": ("Llama", {"tie_word_embeddings": True, "rms_norm_eps": 1e-3}),
    "one head of keys": ("Llama", {"num_key_value_heads": 1}),
    "rope": ("Llama", {"rope_parameters": {"rope_type": "default", "rope_theta": 500.0}}),
    "mistral": ("Mistral", {"head_dim": 8, "sliding_window": 48}),
    "gelu": ("Llama", {"hidden_act": "gelu"}),
    "arcee": ("Arcee", {"hidden_act": "relu"}),
}


def ids() -> torch.Tensor:
    return torch.randint(3, 64, (2, 48), generator=torch.Generator().manual_seed(1))


def saved(folder: Path, case: str = "llama", **options: Any) -> Any:
    """Writes a model of CASES, and returns it."""
    kind, values = CASES[case]
    model = tiny(kind, **values)
    model.save_pretrained(folder, **options)
    return model


def source(folder: Path) -> HuggingFaceFolder:
    return HuggingFaceFolder(path=str(folder))


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    saved(folder)
    return folder


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_transformers(case, tmp_path):
    theirs = saved(tmp_path, case)
    ours = loaded(source(tmp_path), CACHE)
    with torch.no_grad():
        wanted, got = theirs(input_ids=ids()).logits, ours(ids())
    assert float(wanted.std()) > 0.1
    assert_rounding(got, wanted, n_blocks=3)
    n_params = sum(p.numel() for p in theirs.parameters())
    assert trunk_config(source(tmp_path).shape(CACHE)).cost().n_params == n_params


def test_in_float64_they_differ_by_what_transformers_computes_in_float32(tmp_path):
    """Its norms and rotary angles; our norms are float64 then, and our angles float32 too."""
    theirs = saved(tmp_path).double()
    ours = loaded(source(tmp_path), CACHE).double()
    with torch.no_grad():
        wanted = theirs(input_ids=ids()).logits
        assert_rounding(ours(ids()), wanted, n_blocks=3, each=8)  # no long sums among them


@pytest.mark.parametrize("case", CASES)
def test_the_way_back_gives_the_files_tensors(case, tmp_path):
    saved(tmp_path, case)
    shape, state = source(tmp_path).shape(CACHE), source(tmp_path).state(CACHE)
    from safetensors.torch import load_file

    wanted, got = load_file(tmp_path / "model.safetensors"), from_trunk(state, shape)
    assert got.keys() == wanted.keys()
    assert all(torch.equal(got[name], wanted[name]) for name in wanted)


def test_shards_are_one_model(tmp_path):
    saved(tmp_path / "one")
    saved(tmp_path / "many", max_shard_size="40KB")
    assert len(list((tmp_path / "many").glob("*.safetensors"))) == 3
    one, many = source(tmp_path / "one"), source(tmp_path / "many")
    assert one.digest(CACHE) == many.digest(CACHE)
    a, b = one.state(CACHE), many.state(CACHE)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_the_digest_tells_weights_apart_and_not_places(tmp_path):
    model = saved(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "copy")
    before = source(tmp_path / "one").digest(CACHE)
    assert source(tmp_path / "copy").digest(CACHE) == before
    assert len(before) == 64
    with torch.no_grad():
        model.model.norm.weight[0] += 1e-3
    model.save_pretrained(tmp_path / "one")
    assert source(tmp_path / "one").digest(CACHE) != before


def test_bfloat16_weights_are_read_as_float32(tmp_path):
    theirs = saved(tmp_path)
    theirs.to(torch.bfloat16).save_pretrained(tmp_path)
    state = source(tmp_path).state(CACHE)
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}
    assert torch.equal(state["norm.weight"], theirs.model.norm.weight.float())


def test_a_window_is_told(tmp_path):
    saved(tmp_path / "a", "mistral")
    saved(tmp_path / "b")
    assert source(tmp_path / "a").shape(CACHE).max_seq_len == 48
    assert source(tmp_path / "b").shape(CACHE).max_seq_len == 64  # its max_position_embeddings


def test_sequences_longer_than_the_window_are_refused(compose_raw, tmp_path):
    """Within it, every position is seen in both models; beyond, in ours alone."""
    saved(tmp_path, "mistral")
    train_bpe(Nursery().documents("train", CACHE), 270).save(str(tmp_path / "tokenizer.json"))
    edited(tmp_path, vocab_size=270)
    words = ("model.embed_tokens.weight", "lm_head.weight")
    resaved(tmp_path, lambda t: t.update({name: torch.zeros(270, 32) for name in words}))
    given = ("init=hf", f"init.path={tmp_path}", "model=dense")
    raw = compose_raw(*given, "ladder.seq_len=48")
    assert completed(raw)["init"]["sha256"] == source(tmp_path).digest(CACHE)
    why = r"data.seq_len=49, .* sequences of at most 48 .*seq_len=48"
    with pytest.raises(ValueError, match=why):
        completed(compose_raw(*given, "ladder.seq_len=49"))


def test_float32s_own_epsilon_is_the_trunks_default(tmp_path):
    saved(tmp_path)
    edited(tmp_path, rms_norm_eps=torch.finfo(torch.float32).eps)
    assert source(tmp_path).shape(CACHE).norm["eps"] is None


def test_settings_as_transformers_4_wrote_them(tmp_path):
    """rope_theta on its own, and no head_dim."""
    theirs = saved(tmp_path, "rope")
    edited(tmp_path, rope_parameters=None, head_dim=None, rope_theta=500.0, rope_scaling=None)
    with torch.no_grad():
        got = loaded(source(tmp_path), CACHE)(ids())
        assert_rounding(got, theirs(input_ids=ids()).logits, n_blocks=3)


def test_its_own_tokenizer_comes_with_it(tmp_path):
    saved(tmp_path / "model")
    own = train_bpe(Nursery().documents("train", CACHE), 270)
    own.save(str(tmp_path / "model" / "tokenizer.json"))
    config = build(source(tmp_path / "model").tokenizer(CACHE), "tokenizer")
    vocabulary = prepare_vocabulary(config, Nursery(), tmp_path)
    assert vocabulary.tokenizer().encode("the cat sat").ids == own.encode("the cat sat").ids
    shutil.copytree(tmp_path / "model", tmp_path / "copy")
    other = build(source(tmp_path / "copy").tokenizer(CACHE), "tokenizer")
    assert identity(other) == identity(config)


def edited(folder: Path, **values: Any) -> None:
    """Changes config.json; None takes a key out."""
    path = folder / "config.json"
    known = json.loads(path.read_text()) | values
    path.write_text(json.dumps({k: v for k, v in known.items() if v is not None}))


def resaved(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors")


def config(**values: Any) -> Callable[[Path], None]:
    return lambda folder: edited(folder, **values)


def tensor(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[Path], None]:
    return lambda folder: resaved(folder, lambda t: t.update({name: change(t.get(name))}))


def file(name: str, text: str = "") -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_text(text)


def cut(name: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:-100])


WEIGHTS, SHARDS = "model.safetensors", "model.safetensors.index.json"
INDEX = '{"weight_map": {"x": "model.safetensors"}}'
DOWN, UP = "model.layers.1.mlp.down_proj.weight", "mlp.up_proj.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
ROPE = {"rope_type": "llama3", "rope_theta": 10.0, "factor": 8.0}
PART = {"rope_type": "default", "rope_theta": 10.0, "partial_rotary_factor": 0.5}
LINEAR = {"rope_parameters": None, "rope_scaling": {"type": "linear", "factor": 2}}
ENDLESS = {"rope_theta": float("inf")}
CLASSIFIER = ["LlamaForSequenceClassification"]
SIZES = rf"{UP} is of size \(48, 32\), and the model's settings say \(64, 32\)"
REFUSED: list[tuple[Callable[[Path], Any], str]] = [
    (config(model_type="gpt2"), "learned positions, LayerNorm and biases"),
    (config(model_type="gpt_neox"), "'gpt_neox' has LayerNorm, biases"),
    (config(model_type="new"), "'new'; the trunk carries llama, mistral"),
    (config(model_type=None), "model_type=None"),
    (config(auto_map={"AutoModel": "m.M"}), "which is never run here"),
    (config(architectures=CLASSIFIER), "no causal language model"),
    (config(rope_parameters=ROPE), "rope_type='llama3'"),
    (config(**LINEAR), "rope_type='linear'"),
    (config(rope_parameters=PART), "partial_rotary_factor"),
    (config(rope_parameters=ENDLESS), "rope_theta=inf must be"),
    (config(attention_bias=True), "attention_bias=true"),
    (config(mlp_bias=True), "mlp_bias=true"),
    (config(head_dim=16), "head_dim=16 with 4 heads"),
    (config(num_key_value_heads=3), "4 heads and 3 of keys"),
    (config(hidden_act="relu2"), "hidden_act='relu2' is not one of"),
    (config(quantization_config={"quant_method": "gptq"}), "quantised by gptq"),
    (
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quantised by bitsandbytes; give plain ones, or a gguf",
    ),
    (config(hidden_size="32"), "hidden_size='32' must be of type int"),
    (config(tie_word_embeddings="false"), "tie_word_embeddings='false' must be of type bool"),
    (config(rms_norm_eps=0), "rms_norm_eps=0 must be"),
    (config(intermediate_size=64), SIZES),
    (
        tensor(DOWN, lambda whole: whole[:, :24].contiguous()),
        r"layers.1.mlp.down_proj.weight is of size \(32, 24\)",
    ),
    (lambda folder: resaved(folder, lambda t: t.pop(DOWN)), f"have no {DOWN}"),
    (tensor(BIAS, lambda _: torch.zeros(32)), f"no place for {BIAS}"),
    (tensor(DOWN, lambda whole: whole.to(torch.int8)), f"{DOWN} is of type I8"),
    (cut(WEIGHTS), "is cut short"),
    (file(WEIGHTS, "not"), "can't be read, or is cut short"),
    (lambda folder: (folder / "config.json").unlink(), "there is no config.json"),
    (cut("config.json"), "config.json can't be read"),
    (file("config.json", "[]"), "it holds a list, and not a dict"),
    (
        lambda folder: (folder / WEIGHTS).rename(folder / "pytorch_model.bin"),
        "a pickle, which runs code when it is read",
    ),
    (lambda folder: (folder / WEIGHTS).unlink(), "no model.safetensors and no gguf"),
    (file(SHARDS, INDEX), "says that model.safetensors holds x, and it does not"),
    (file("adapter_config.json"), "peft's adapters: merge them"),
    (file("retrofit.json"), "load_retrofitted"),
    (file("record.json"), "give it as init=run"),
    (shutil.rmtree, "is no folder and no .gguf file"),
]


@pytest.mark.parametrize(("spoil", "message"), REFUSED)
def test_what_is_refused_and_why(spoil, message, written, tmp_path):
    folder = shutil.copytree(written, tmp_path / "model")
    spoil(folder)
    with pytest.raises(ValueError, match=message) as error:
        source(folder).shape(CACHE), source(folder).state(CACHE)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)


def test_a_missing_shard_is_named(tmp_path):
    saved(tmp_path, max_shard_size="40KB")
    (tmp_path / SHARD).unlink()
    with pytest.raises(ValueError, match=f"has no file {SHARD}"):
        source(tmp_path).digest(CACHE)


def test_a_folder_without_a_tokenizer(written):
    with pytest.raises(ValueError, match=r"has no tokenizer\.json; transformers writes one"):
        source(written).tokenizer(CACHE)


def test_no_block_but_a_dense_one_has_a_name_in_llama(written):
    shape, state = source(written).shape(CACHE), source(written).state(CACHE)
    node = {"_target_": "experiments.models.ffn.none.NoneConfig"}
    with pytest.raises(ValueError, match=r"no place for experiments\.models\.ffn\.none"):
        from_trunk(state, dataclasses.replace(shape, ffns=(node,) * 3))


def test_without_the_extra_its_name_is_told(written, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    needed = r"needs the package safetensors .*pip install -e '\.\[hf\]'"
    with pytest.raises(ValueError, match=needed):
        source(written).state(CACHE)
