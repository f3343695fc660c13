"""Llama's weights by Hugging Face's names, and by those of our trunk: one arithmetic, two layouts.

Llama (Touvron 2023, arXiv:2302.13971) and Mistral have the trunk's parts: RMS norms before each
sublayer, rotary positions, no biases, a gated feed-forward layer. Arcee has a plain one. Ours keeps
queries, keys and values in one matrix, rows of queries first.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from experiments.config.reading import build
from experiments.init.source import Shape
from experiments.models.ffn.dense import DenseConfig

DENSE = "experiments.models.ffn.dense.DenseConfig"
_SHOWN = 3  # names in a message
_MOST_LAYERS = 10_000  # as schema.RunConfig's size
_EMBEDDING, _NORM, _HEAD = "model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"
# buffers of old checkpoints, which the model computes itself
_COMPUTED = ("rotary_emb.inv_freq", "self_attn.bias", "self_attn.masked_bias")


def llama_shape(
    *,
    n_layers: int,
    d_model: int,
    d_ff: int,
    n_heads: int,
    n_kv_heads: int,
    vocab_size: int,
    tie_head: bool,
    rope_base: float,
    norm_eps: float | None,
    activation: str = "silu",
    glu: bool = True,
    max_seq_len: int | None = None,
) -> Shape:
    """The trunk of a Llama. Raises ValueError if its heads don't share out its width."""
    if n_layers > _MOST_LAYERS:
        raise ValueError(f"{n_layers} blocks are more than any model has")
    if d_model % n_heads or n_heads % n_kv_heads:
        raise ValueError(
            f"{n_heads} heads and {n_kv_heads} of keys don't share out a width of {d_model}; the "
            "trunk's heads are equal parts of it, and those of keys serve equally many"
        )
    ffn = {
        "_target_": DENSE,
        "width_factor": d_ff / d_model,
        "activation": activation,
        "glu": glu,
    }
    assert _dense(ffn).d_ff(d_model) == d_ff
    return Shape(
        n_layers=n_layers,
        d_model=d_model,
        d_head=d_model // n_heads,
        n_kv_heads=n_kv_heads,
        vocab_size=vocab_size,
        tie_head=tie_head,
        rope_base=rope_base,
        norm_eps=norm_eps,
        ffns=(ffn,) * n_layers,
        max_seq_len=max_seq_len,
    )


def to_trunk(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The weights by our trunk's names, float32; of a tied head, the embedding under both.

    Raises ValueError for tensors that are missing, of another size, or have no place in the trunk.
    """
    check_sizes({name: tuple(tensor.shape) for name, tensor in state.items()}, shape)

    def take(name: str) -> Tensor:
        return state[name].to(torch.float32)

    ours = {"embedding.weight": take(_EMBEDDING), "norm.weight": take(_NORM)}
    ours["head.weight"] = ours["embedding.weight"] if shape.tie_head else take(_HEAD)
    for i in range(shape.n_layers):
        qkv = [take(f"model.layers.{i}.self_attn.{part}_proj.weight") for part in "qkv"]
        ours[f"blocks.{i}.attention.qkv.weight"] = torch.cat(qkv)
        for own, theirs in _same(shape, i):
            ours[own] = take(theirs)
    return ours


def from_trunk(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The inverse: copies by Hugging Face's names, in the state's own type.

    A tied head is left out, as in their files. Raises ValueError for a block whose feed-forward
    layer is not dense.
    """
    theirs = {_EMBEDDING: state["embedding.weight"], _NORM: state["norm.weight"]}
    if not shape.tie_head:
        theirs[_HEAD] = state["head.weight"]
    d_kv = shape.n_kv_heads * shape.d_head
    for i in range(shape.n_layers):
        rows = state[f"blocks.{i}.attention.qkv.weight"].split((shape.d_model, d_kv, d_kv))
        for part, weight in zip("qkv", rows, strict=True):
            theirs[f"model.layers.{i}.self_attn.{part}_proj.weight"] = weight
        theirs |= {name: state[own] for own, name in _same(shape, i)}
    return {name: weight.detach().clone() for name, weight in theirs.items()}


def _same(shape: Shape, i: int) -> Iterator[tuple[str, str]]:
    """Of block i: our name and theirs of what is laid out alike."""
    own, theirs = f"blocks.{i}", f"model.layers.{i}"
    yield f"{own}.attention_norm.weight", f"{theirs}.input_layernorm.weight"
    yield f"{own}.ffn_norm.weight", f"{theirs}.post_attention_layernorm.weight"
    yield f"{own}.attention.out.weight", f"{theirs}.self_attn.o_proj.weight"
    yield f"{own}.ffn.w_in.weight", f"{theirs}.mlp.up_proj.weight"
    yield f"{own}.ffn.w_out.weight", f"{theirs}.mlp.down_proj.weight"
    if _dense(shape.ffns[i]).glu:
        yield f"{own}.ffn.w_gate.weight", f"{theirs}.mlp.gate_proj.weight"


def _sizes(shape: Shape) -> dict[str, tuple[int, ...]]:
    """The size of every tensor that the weights must have, by their names."""
    d, d_kv = shape.d_model, shape.n_kv_heads * shape.d_head
    sizes: dict[str, tuple[int, ...]] = {_EMBEDDING: (shape.vocab_size, d), _NORM: (d,)}
    if not shape.tie_head:
        sizes[_HEAD] = (shape.vocab_size, d)
    for i, node in enumerate(shape.ffns):
        block, ffn = f"model.layers.{i}", _dense(node)
        d_ff = ffn.d_ff(d)
        sizes |= {
            f"{block}.input_layernorm.weight": (d,),
            f"{block}.post_attention_layernorm.weight": (d,),
            f"{block}.self_attn.q_proj.weight": (d, d),
            f"{block}.self_attn.k_proj.weight": (d_kv, d),
            f"{block}.self_attn.v_proj.weight": (d_kv, d),
            f"{block}.self_attn.o_proj.weight": (d, d),
            f"{block}.mlp.up_proj.weight": (d_ff, d),
            f"{block}.mlp.down_proj.weight": (d, d_ff),
        }
        if ffn.glu:
            sizes[f"{block}.mlp.gate_proj.weight"] = (d_ff, d)
    return sizes


def check_sizes(found: Mapping[str, tuple[int, ...]], shape: Shape) -> None:
    """Raises ValueError unless these are the sizes of a Llama's tensors, by their names."""
    sizes = _sizes(shape)
    if missing := [name for name in sizes if name not in found]:
        raise ValueError(f"the weights have no {_listed(missing)}; get the model's files again")
    for name, size in sizes.items():
        if found[name] != size:
            raise ValueError(
                f"{name} is of size {found[name]}, and the model's settings say {size}; get the "
                "model's files again"
            )
    others = [n for n in found if n not in sizes and n != _HEAD and not n.endswith(_COMPUTED)]
    if others:
        raise ValueError(
            f"the trunk has no place for {_listed(others)}; experiments.init.retrofit() serves "
            "models that it can't carry"
        )


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _dense(node: Mapping[str, object]) -> DenseConfig:
    config = build(node, "the feed-forward layer")
    if not isinstance(config, DenseConfig):
        raise ValueError(
            f"a Llama has dense feed-forward layers alone, and no place for {node['_target_']}"
        )
    return config
