"""Tiny gguf files, written by the package `gguf` in llama.cpp's layout, read into our trunk."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch

from experiments.config.reading import build
from experiments.data.folders import identity
from experiments.data.tokenizer import train_bpe
from experiments.data.vocabulary import prepare_vocabulary
from experiments.init.huggingface import HuggingFaceFolder
from experiments.init.llama import to_trunk
from experiments.init.reading import file_sha256
from experiments.init.smollm2 import SmolLM2
from tests.conftest import Nursery
from tests.init.tiny import tiny
from tests.init.trunks import loaded
from tests.rounding import assert_rounding

CACHE = Path("unused")
SETTINGS = {"block_count": 3, "embedding_length": 32, "feed_forward_length": 64}
SETTINGS |= {"attention.head_count": 4, "attention.head_count_kv": 2, "rope.dimension_count": 8}
Q8 = gguf.GGMLQuantizationType.Q8_0


def model() -> Any:
    return tiny("Llama", intermediate_size=64)


def paired(weight: torch.Tensor, n_heads: int) -> torch.Tensor:
    """Rows as llama.cpp has them: of each head i, i + half, i + 1, i + half + 1, ..."""
    rows, half = [], len(weight) // n_heads // 2
    for head in range(n_heads):
        for i in range(half):
            for row in (i, i + half):
                rows.append(weight[head * 2 * half + row])
    return torch.stack(rows)


def stored(name: str) -> str:
    """llama.cpp's name of one of transformers' tensors."""
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 3)
    return str(names.get_name(name, (".weight", ".bias")))


def write(
    path: Path,
    settings: dict[str, Any] | None = None,
    kind: str = "llama",
    quantised: Any = None,
    change: Callable[[dict[str, np.ndarray]], None] = lambda tensors: None,
    **fields: Any,
) -> None:
    """A Llama of three blocks; quantised: how its matrices are."""
    writer = gguf.GGUFWriter(path, kind)
    for key, value in (SETTINGS | (settings or {})).items():
        if value is not None:
            writer.add_uint32(f"llama.{key}", value)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-6)
    writer.add_float32("llama.rope.freq_base", 10_000.0)
    for key, value in fields.items():
        add = writer.add_string if isinstance(value, str) else writer.add_array
        add(key.replace("__", "."), value)
    tensors = {}
    for name, tensor in model().state_dict().items():
        heads = {"q_proj": 4, "k_proj": 2}.get(name.split(".")[-2])
        rows = tensor if heads is None else paired(tensor, heads)
        tensors[stored(name)] = rows.numpy()
    change(tensors)
    for name, values in tensors.items():
        if quantised is not None and values.ndim == 2:
            writer.add_tensor(name, gguf.quantize(values, quantised), raw_dtype=quantised)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def source(path: Path) -> HuggingFaceFolder:
    return HuggingFaceFolder(path=str(path))


@pytest.mark.levels
def test_logits_are_those_of_the_model_that_was_written(tmp_path):
    write(tmp_path / "a.gguf")
    ids = torch.randint(3, 64, (2, 48))
    with torch.no_grad():
        got, wanted = loaded(source(tmp_path), CACHE)(ids), model()(input_ids=ids).logits
    assert_rounding(got, wanted, n_blocks=3)


def test_a_file_and_its_folder_are_the_same(tmp_path):
    write(tmp_path / "a.gguf")
    folder, file = source(tmp_path), source(tmp_path / "a.gguf")
    assert folder.shape(CACHE) == file.shape(CACHE)
    assert folder.digest(CACHE) == file.digest(CACHE)
    assert folder.shape(CACHE).norm["eps"] == 1e-6


@pytest.mark.parametrize(
    ("settings", "longest"),
    [({}, None), ({"context_length": 64}, 64),
     ({"context_length": 64, "attention.sliding_window": 48}, 48)],
)  # fmt: skip
def test_the_longest_text_is_what_the_file_says(settings, longest, tmp_path):
    write(tmp_path / "a.gguf", settings)
    assert source(tmp_path).shape(CACHE).max_seq_len == longest


def test_quantised_weights_are_what_the_quantisation_says(tmp_path):
    """Q8_0 (llama.cpp's ggml-quants): of 32 values the largest is 127 times their scale."""
    write(tmp_path / "a.gguf", quantised=Q8)
    got = source(tmp_path).state(CACHE)["blocks.2.ffn.w_out.weight"]
    exact = model().model.layers[2].mlp.down_proj.weight.detach().double()
    blocks = exact.reshape(-1, 32)
    scale = (blocks.abs().amax(1, keepdim=True) / 127).half().double()
    step = scale.expand_as(blocks).reshape(exact.shape)
    assert bool(((got.double() - exact).abs() <= 0.51 * step).all())
    assert not torch.equal(got.double(), exact)


def test_a_file_without_a_head_is_tied(tmp_path):
    write(tmp_path / "a.gguf", change=lambda tensors: tensors.pop("output.weight"))
    state = source(tmp_path).state(CACHE)
    assert source(tmp_path).shape(CACHE).tie_head
    assert state["head.weight"] is state["embedding.weight"]


def vocabulary(**changes: Any) -> dict[str, Any]:
    """Fields of a byte-level BPE of 270 entries, of which the first is not text."""
    parts = build_bpe()
    entries = sorted(parts["vocab"], key=parts["vocab"].get)
    fields = {
        "model": "gpt2",
        "pre": "gpt-2",
        "tokens": entries,
        "token_type": [3] + [1] * (len(entries) - 1),
        "merges": [" ".join(pair) for pair in parts["merges"]],
    }
    return {f"tokenizer__ggml__{name}": value for name, value in (fields | changes).items()}


def build_bpe() -> dict[str, Any]:
    return json.loads(train_bpe(Nursery().documents("train", CACHE), 270).to_str())["model"]


def test_its_vocabulary_is_the_tokenizer(tmp_path):
    write(tmp_path / "a.gguf", **vocabulary())
    own = train_bpe(Nursery().documents("train", CACHE), 270)
    config = build(source(tmp_path).tokenizer(CACHE), "tokenizer", ("n_entries", "make"))
    made = prepare_vocabulary(config, Nursery(), tmp_path)
    text = "the cat sat on 12 mats, naïve"
    assert made.tokenizer().encode(text).ids == own.encode(text).ids
    assert (made.n_entries, made.end_of_text) == (270, 0)
    assert made.token_bytes()[own.encode(text).ids].sum() == len(text.encode())
    shutil.copy(tmp_path / "a.gguf", tmp_path / "b.gguf")
    other = build(source(tmp_path / "b.gguf").tokenizer(CACHE), "tokenizer")
    assert identity(other) == identity(config)


@pytest.mark.parametrize("changes", [{"model": "llama"}, {"pre": "llama-bpe"}])
def test_other_vocabularies_need_a_tokenizer_json(changes, tmp_path):
    write(tmp_path / "a.gguf", **vocabulary(**changes))
    config = build(source(tmp_path).tokenizer(CACHE), "tokenizer")
    with pytest.raises(ValueError, match=r"put the model's tokenizer.json beside it"):
        config.n_entries()


def unknown_type(path: Path) -> None:
    """Type of the first tensor, which follows its name, its dimensions and their number."""
    write(path)
    content = bytearray(path.read_bytes())
    at = content.index(b"token_embd.weight") + len("token_embd.weight") + 4 + 2 * 8
    content[at : at + 4] = (99).to_bytes(4, "little")
    path.write_bytes(content)


def cut(share: float) -> Callable[[Path], None]:
    def write_part(path: Path) -> None:
        write(path)
        content = path.read_bytes()
        path.write_bytes(content[: int(share * len(content))])

    return write_part


def extra(name: str) -> Callable[[Path], None]:
    values = np.zeros(32, dtype=np.float32)
    return lambda path: write(path, change=lambda tensors: tensors.update({name: values}))


REFUSED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "another kind": (lambda p: write(p, kind="gpt2"), "of architecture 'gpt2'"),
    "not a gguf": (lambda p: p.write_bytes(b"nothing of the kind"), "of a newer kind, or none"),
    "empty": (Path.touch, "of a newer kind, or none"),
    "cut in the settings": (cut(0.002), "is cut short"),
    "cut in the tensors": (cut(0.9), "is cut short"),
    "an unknown type": (
        unknown_type,
        r"as a gguf \(.*99.* is not a valid GGMLQuant",
    ),
    "whole numbers": (
        lambda p: write(p, change=lambda t: t.update({"output.weight": np.zeros((64, 32), int)})),
        "output.weight can't be read",
    ),
    "a bias": (extra("blk.0.attn_q.bias"), "no place for model.layers.0.self_attn.q_proj.bias"),
    "rope scaling": (extra("rope_freqs.weight"), "scales its rotary positions"),
    "named rope scaling": (
        lambda p: write(p, llama__rope__scaling__type="yarn"),
        "scales its rotary positions",
    ),
    "experts": (lambda p: write(p, {"expert_count": 8}), "a mixture of experts"),
    "wide heads": (
        lambda p: write(p, {"attention.key_length": 16}),
        r"llama\.attention\.key_length=16",
    ),
    "no width": (lambda p: write(p, {"embedding_length": None}), "llama.embedding_length=null"),
    "another size": (
        lambda p: write(p, {"feed_forward_length": 96}),
        r"mlp.up_proj.weight is of size \(64, 32\), and the model's settings say \(96, 32\)",
    ),
    "a missing tensor": (
        lambda p: write(p, change=lambda tensors: tensors.pop("blk.1.ffn_up.weight")),
        "have no model.layers.1.mlp.up_proj.weight",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_and_why(case, tmp_path):
    make, message = REFUSED[case]
    path = tmp_path / "a.gguf"
    make(path)
    with pytest.raises(ValueError, match=message) as error:
        source(path).shape(CACHE), source(path).state(CACHE)
    assert "\n" not in str(error.value)
    assert str(path) in str(error.value)


def test_one_file_must_be_named_where_there_are_several(tmp_path):
    write(tmp_path / "a.gguf")
    write(tmp_path / "b.gguf")
    with pytest.raises(ValueError, match=r"has 2 gguf files; give one, as .*a\.gguf"):
        source(tmp_path).shape(CACHE)


def test_a_wheel_with_another_file_inside_is_refused(tmp_path):
    """The cache has a file of that hash's name, and it is another's."""
    smollm2 = SmolLM2(
        requirement="a==1", sha256="0" * 64, member="a/b.gguf", member_sha256="1" * 64
    )
    folder = tmp_path / "weights" / ("1" * 16)
    folder.mkdir(parents=True)
    write(folder / "b.gguf")
    with pytest.raises(ValueError, match=r"b\.gguf has sha256 .*, not 1111.* try again"):
        smollm2.state(tmp_path)


def test_another_model_in_its_place_is_refused(tmp_path):
    write(tmp_path / "b.gguf")
    digest = file_sha256(tmp_path / "b.gguf")
    smollm2 = SmolLM2(requirement="a==1", sha256="0" * 64, member="b.gguf", member_sha256=digest)
    folder = tmp_path / "weights" / digest[:16]
    folder.mkdir(parents=True)
    (tmp_path / "b.gguf").rename(folder / "b.gguf")
    with pytest.raises(ValueError, match="is not SmolLM2-135M"):
        smollm2.state(tmp_path)


def test_a_tied_head_is_one_tensor(tmp_path):
    shape = dataclasses.replace(written_shape(tmp_path), tie_head=True)
    ours = to_trunk(model().state_dict(), shape)
    assert ours["head.weight"] is ours["embedding.weight"]


def written_shape(folder: Path) -> Any:
    write(folder / "a.gguf")
    return source(folder).shape(CACHE)
