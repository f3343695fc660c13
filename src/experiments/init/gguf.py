"""Weights in a gguf file, llama.cpp's format: one file with settings, vocabulary and tensors.

Quantised tensors are given their float32 values. Needs the package `gguf` of the extra `hf`.
"""

import functools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.config.constraints import AtLeast1, checked, shown
from experiments.init.gguf_header import Header, read_gguf_header
from experiments.init.llama import check_sizes, llama_shape
from experiments.init.reading import from_extra, named, stamp
from experiments.init.source import Shape
from experiments.system.regular_files import regular

_NAMES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
# settings that have a default where they are missing
_OPTIONAL = (
    "general.alignment",
    "llama.attention.head_count_kv",
    "llama.attention.key_length",
    "llama.attention.layer_norm_rms_epsilon",
    "llama.attention.sliding_window",
    "llama.attention.value_length",
    "llama.context_length",
    "llama.expert_count",
    "llama.rope.dimension_count",
    "llama.rope.freq_base",
    "llama.rope.scaling.type",
    "split.count",
)


def gguf_metadata(path: Path) -> Mapping[str, Any]:
    """File's settings by their full names: llama.block_count, tokenizer.ggml.tokens.

    Raises ValueError for a file that is no gguf, or is cut short.
    """
    return _header(path).metadata


def gguf_shape(path: Path) -> Shape:
    """Trunk that carries the file's weights, whose sizes are checked.

    Raises ValueError for weights that the trunk can't carry.
    """
    header = _header(path)
    with named(path):
        return _shape(header)


def _shape(header: Header) -> Shape:
    meta = header.metadata
    if (kind := meta.get("general.architecture")) != "llama":
        raise ValueError(
            f"it holds a model of architecture {kind!r}, and the trunk carries llama alone; "
            "retrofit() serves others"
        )
    _refuse(header)

    def number(name: str, default: int | None = None) -> int:
        return int(checked(meta.get(f"llama.{name}", default), AtLeast1, f"llama.{name}"))

    def decimal(name: str, default: float, below: float) -> float:
        value = meta.get(f"llama.{name}", default)
        if type(value) is not float or not 0 < value < below:  # an integer is a damaged one
            raise ValueError(
                f"llama.{name}={shown(value)} is no decimal number above 0 and below {below:g}"
            )
        return _decimal(value)

    d_model, n_heads = number("embedding_length"), number("attention.head_count")
    d_head = d_model // n_heads
    for name in ("rope.dimension_count", "attention.key_length", "attention.value_length"):
        if number(name, d_head) != d_head:
            raise ValueError(
                f"llama.{name}={number(name)}, and the trunk's heads of all kinds are d_model / "
                f"heads = {d_head} wide and turned whole"
            )
    lengths = ("attention.sliding_window", "context_length")
    longest = [number(name) for name in lengths if f"llama.{name}" in meta]
    vocabulary = header.entries.get("token_embd.weight")
    shape = llama_shape(
        n_layers=number("block_count"),
        d_model=d_model,
        d_ff=number("feed_forward_length"),
        n_heads=n_heads,
        n_kv_heads=number("attention.head_count_kv", n_heads),
        vocab_size=vocabulary.size[0] if vocabulary else number("vocab_size"),
        tie_head="output.weight" not in header.entries,
        rope_theta=decimal("rope.freq_base", 10_000.0, 1e12),
        norm_eps=decimal("attention.layer_norm_rms_epsilon", 1e-6, 1.0),
        max_seq_len=min(longest, default=None),
    )
    sizes = {_named_by_hub(name): entry.size for name, entry in header.entries.items()}
    check_sizes(sizes, shape)
    return shape


def gguf_state(path: Path) -> dict[str, Tensor]:
    """File's tensors by Hugging Face's names, float32, rows of queries and keys in their order.

    Raises ValueError for a quantisation that can't be read.
    """
    header = _header(path)
    package = from_extra("gguf", f"{path}")
    content = np.memmap(regular(path), mode="r")
    shape = gguf_shape(path)
    paired = {"attn_q": shape.d_model // shape.d_head, "attn_k": shape.attention["n_kv_heads"]}
    state = {}
    for name, entry in header.entries.items():
        stored = content[entry.offset : entry.offset + entry.n_bytes]
        rows = stored.reshape(*entry.size[:-1], -1)
        try:
            values = package.dequantize(rows, entry.kind)
        except (NotImplementedError, ValueError) as error:
            raise ValueError(
                f"{path}: {name} can't be read ({error}); quantise the model in another way, or "
                "give its safetensors"
            ) from None
        tensor = torch.from_numpy(np.array(values, dtype=np.float32).reshape(entry.size))
        for part, n_heads in paired.items():
            if name.endswith(f".{part}.weight"):
                tensor = _halves(tensor, n_heads)
        state[_named_by_hub(name)] = tensor
    return state


def _halves(weight: Tensor, n_heads: int) -> Tensor:
    """Rows (out, in) of a head with those that are turned together half a head apart.

    llama.cpp turns neighbours (2i, 2i + 1), and its files have the rows in that order.
    """
    pairs = weight.view(n_heads, -1, 2, weight.shape[-1])
    return pairs.swapaxes(1, 2).reshape(weight.shape)


def _named_by_hub(name: str) -> str:
    """blk.3.attn_q.weight -> model.layers.3.self_attn.q_proj.weight; others stay."""
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)", name)
    if found is None or found[2] not in _NAMES:
        return name
    block = "" if found[1] is None else f"model.layers.{found[1]}."
    return f"{block}{_NAMES[found[2]]}.{found[3]}"


def _refuse(header: Header) -> None:
    """Raises ValueError for what the trunk does not compute."""
    meta = header.metadata
    if meta.get("llama.rope.scaling.type", "none") != "none" or "rope_freqs.weight" in (
        header.entries
    ):
        raise ValueError("it scales its rotary positions, and the trunk does not")
    if meta.get("llama.expert_count", 0) != 0:
        raise ValueError("it is a mixture of experts, and the trunk carries dense models")
    if meta.get("split.count", 1) not in (0, 1):
        raise ValueError("it is a part of a model; join them by llama-gguf-split --merge")


def _header(path: Path) -> Header:
    return _read_header(*stamp(path))


@functools.lru_cache(maxsize=2)
def _read_header(path: Path, size: int, changed: int) -> Header:
    try:
        header = read_gguf_header(path)
    except ValueError as error:
        raise ValueError(
            f"{path} can't be read as a gguf ({error}): it is cut short, damaged, of a newer kind, "
            "or none; get it again"
        ) from None
    _check_names(path, header.metadata)
    return header


def _check_names(path: Path, metadata: Mapping[str, Any]) -> None:
    """Raises ValueError for a setting whose name has one letter wrong: it would be taken for
    missing, and its default used.
    """
    for wanted in _OPTIONAL:
        if wanted in metadata:
            continue
        for name in metadata:
            if len(name) == len(wanted) and sum(a != b for a, b in zip(name, wanted)) == 1:
                raise ValueError(f"{path} is damaged: {shown(name)} is {wanted} but for a letter")


def _decimal(value: float) -> float:
    """Shortest number that the file's float32 stands for: 1e-5, not 9.99999974e-06."""
    return float(str(np.float32(value)))
