"""Llama's weights by Hugging Face's names, and by those of our trunk: one arithmetic, two layouts.

Llama (Touvron 2023, arXiv:2302.13971) and Mistral have the trunk's parts: RMS norms before each
sublayer, rotary positions, no biases, a gated feed-forward layer. Arcee has a plain one. Ours keeps
queries, keys and values in one matrix, rows of queries first.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from experiments.config.nodes import make_node
from experiments.config.reading import build
from experiments.init.source import Shape
from experiments.models.attention.gqa import GQAConfig
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.positions.rope import RoPE
from experiments.models.residuals.pre_norm import PreNorm

DENSE = "experiments.models.ffn.dense.DenseConfig"
_SHOWN = 3  # names in a message
_MOST_LAYERS = 10_000  # as schema.RunConfig's size
_HEAD = "lm_head.weight"
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
    rope_theta: float,
    norm_eps: float | None,
    activation: str = "silu",
    glu: bool = True,
    max_seq_len: int | None = None,
) -> Shape:
    """Trunk of a Llama. Raises ValueError if its heads don't share out its width."""
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
        attention=make_node(GQAConfig(n_kv_heads=n_kv_heads)),
        vocab_size=vocab_size,
        tie_head=tie_head,
        positions=make_node(RoPE(base=rope_theta)),
        norm=make_node(RMSNormConfig(eps=norm_eps)),
        residual=make_node(PreNorm()),
        ffns=(ffn,) * n_layers,
        max_seq_len=max_seq_len,
    )


def to_trunk(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Weights by our trunk's names, float32; of a tied head, the embedding under both.

    Raises ValueError for tensors that are missing, of another size, or have no place in the trunk.
    """
    check_sizes({name: tuple(tensor.shape) for name, tensor in state.items()}, shape)
    ours = {}
    for own, parts in llama_layout(shape).items():
        rows = [state[name].to(torch.float32) for name in parts]
        ours[own] = rows[0] if len(rows) == 1 else torch.cat(rows)
    if shape.tie_head:
        ours["head.weight"] = ours["embedding.weight"]
    return ours


def from_trunk(state: Mapping[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """Inverse: copies by Hugging Face's names, in the state's own type.

    A tied head is left out, as in their files. Raises ValueError for a block whose feed-forward
    layer is not dense.
    """
    theirs: dict[str, Tensor] = {}
    for own, parts in llama_layout(shape).items():
        theirs |= zip(parts, state[own].split([size[0] for size in parts.values()]), strict=True)
    return {name: weight.detach().clone() for name, weight in theirs.items()}


def llama_layout(shape: Shape) -> dict[str, dict[str, tuple[int, ...]]]:
    """By our name of each tensor: their names of those whose rows it has, and their sizes."""
    d, d_kv = shape.d_model, shape.attention["n_kv_heads"] * shape.d_head
    layout: dict[str, dict[str, tuple[int, ...]]] = {
        "embedding.weight": {"model.embed_tokens.weight": (shape.vocab_size, d)},
        "norm.weight": {"model.norm.weight": (d,)},
    }
    if not shape.tie_head:
        layout["head.weight"] = {_HEAD: (shape.vocab_size, d)}
    for i, node in enumerate(shape.ffns):
        ffn = _dense(node)
        d_ff = ffn.d_ff(d)
        block: dict[str, dict[str, tuple[int, ...]]] = {
            "attention_norm": {"input_layernorm": (d,)},
            "attention.qkv": {
                "self_attn.q_proj": (d, d),
                "self_attn.k_proj": (d_kv, d),
                "self_attn.v_proj": (d_kv, d),
            },
            "attention.out": {"self_attn.o_proj": (d, d)},
            "ffn_norm": {"post_attention_layernorm": (d,)},
            "ffn.w_in": {"mlp.up_proj": (d_ff, d)},
            "ffn.w_out": {"mlp.down_proj": (d, d_ff)},
        }
        if ffn.glu:
            block["ffn.w_gate"] = {"mlp.gate_proj": (d_ff, d)}
        for own, parts in block.items():
            layout[f"blocks.{i}.{own}.weight"] = {
                f"model.layers.{i}.{name}.weight": size for name, size in parts.items()
            }
    return layout


def check_sizes(found: Mapping[str, tuple[int, ...]], shape: Shape) -> None:
    """Raises ValueError unless these are the sizes of a Llama's tensors, by their names."""
    sizes = {name: size for parts in llama_layout(shape).values() for name, size in parts.items()}
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


def _dense(node: Mapping[str, object]) -> Any:
    """Layer's config, of one MLP."""
    config = build(node, "the feed-forward layer")
    if not getattr(config, "is_mlp", False):
        raise ValueError(
            f"a Llama has dense feed-forward layers alone, and no place for {node['_target_']}"
        )
    return config
