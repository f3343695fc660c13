"""Folders of models whose config.json was written by somebody who means harm."""

import copy
import json
import time

import pytest

from experiments.init.exported import exported_shape
from experiments.init.hub_config import read_config, read_shape
from experiments.init.retrofit_folder import load_retrofitted
from experiments.init.safetensors_files import stored_tensors

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 32,
    "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "vocab_size": 64, "hidden_act": "silu", "rms_norm_eps": 1e-6,
    "rope_theta": 1e4, "tie_word_embeddings": False,
}  # fmt: skip
EXPORT = {
    "model_type": "expert_isoflops", "hidden_size": 32, "num_hidden_layers": 1, "head_dim": 16,
    "num_key_value_heads": 2, "vocab_size": 64, "tie_word_embeddings": False, "rope_base": 1e4,
    "rms_norm_eps": 1e-6, "ffns": [{"kind": "dense", "width_factor": 4.0}],
}  # fmt: skip
ODD = (
    None, True, 0, -1, 10**6, 10**9, 10**18, 10**30, 1.5, float("nan"), float("inf"), "x", "",
    [], [1], {}, {"a": 1}, [[[]]],
)  # fmt: skip


def read(tmp_path, values, reader):
    """One change is refused in one line, or read; and neither takes long."""
    (tmp_path / "config.json").write_text(json.dumps(values))
    start, said = time.process_time(), ""
    try:
        reader(tmp_path)
    except ValueError as error:
        said = str(error)
    assert "\n" not in said
    assert time.process_time() - start < 1


@pytest.mark.parametrize("key", [*LLAMA, "sliding_window", "rope_scaling", "quantization_config"])
def test_odd_settings_of_a_llama(key, tmp_path):
    for odd in ODD:
        read(tmp_path, {**LLAMA, key: odd}, lambda f: read_shape(read_config(f / "config.json")))


@pytest.mark.parametrize("key", [*EXPORT, "kind", "width_factor"])
def test_odd_settings_of_an_export(key, tmp_path):
    for odd in ODD:
        values = copy.deepcopy(EXPORT)
        (values if key in EXPORT else values["ffns"][0])[key] = odd
        read(tmp_path, values, exported_shape)


def test_the_plain_ones_are_read(tmp_path):
    assert read_shape(LLAMA).n_layers == 2
    (tmp_path / "config.json").write_text(json.dumps(EXPORT))
    assert exported_shape(tmp_path).n_layers == 1


DEEP = '{"model_type": ' + "[" * 100_000


@pytest.mark.parametrize("text", [DEEP, "[]", '{"a": ' + "[" * 60 + "]" * 60 + "}"])
def test_odd_json_is_one_line(text, tmp_path):
    for name in ("config.json", "model.safetensors.index.json", "retrofit.json"):
        (tmp_path / name).write_text(text)
    for reader in (
        lambda: read_config(tmp_path / "config.json"),
        lambda: exported_shape(tmp_path),
        lambda: stored_tensors(tmp_path),
        lambda: load_retrofitted(tmp_path),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]*$"):
            reader()


def test_layers_of_an_export_are_ours_alone(tmp_path):
    for kind in ("os.system", "experiments.models.ffn.dense.DenseConfig", ["dense"], None):
        values = {**EXPORT, "ffns": [{"kind": kind, "_target_": "os.system"}]}
        (tmp_path / "config.json").write_text(json.dumps(values))
        with pytest.raises(ValueError, match="is not the config of an export"):
            exported_shape(tmp_path)
