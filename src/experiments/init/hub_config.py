"""A Hugging Face config.json as our trunk's shape, or the reason why the trunk can't carry it.

It is read by hand: no transformers, and no code of the folder's is ever run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch

from experiments.config.constraints import AtLeast1, Within, checked
from experiments.init.llama import llama_shape
from experiments.init.source import Shape
from experiments.system.json_files import read_json

_INSTEAD = "experiments.init.retrofit() puts a layer into any model of transformers"


@dataclass(frozen=True)
class _Kind:
    """An architecture of transformers that the trunk carries, and its defaults."""

    activation: str
    glu: bool
    norm_eps: float


_KINDS = {
    "llama": _Kind("silu", True, 1e-6),
    "mistral": _Kind("silu", True, 1e-6),
    "arcee": _Kind("relu2", False, 1e-5),
}
_REASONS = {
    "gpt2": "learned positions, LayerNorm and biases",
    "gpt_neox": "LayerNorm, biases, and rotary positions on a part of each head",
    "mixtral": "a mixture of experts in each block",
    "qwen2": "biases of queries, keys and values",
    "qwen3": "norms of queries and keys",
    "gemma": "scaled embeddings and other norms",
    "phi": "LayerNorm, biases and parallel blocks",
}
# transformers' names to ours
_ACTIVATIONS = {"silu": "silu", "swish": "silu", "gelu": "gelu", "relu": "relu"}
_ACTIVATIONS |= {"linear": "identity", "gelu_pytorch_tanh": "gelu_tanh"}


def read_config(path: Path) -> Mapping[str, Any]:
    """Values of a config.json. Raises ValueError if it is none."""
    try:
        return read_json(path)
    except FileNotFoundError:
        raise ValueError(f"there is no {path.name}; get it again") from None
    except (OSError, ValueError) as error:
        raise ValueError(f"{path.name} can't be read: {error}; get it again") from None


def read_shape(values: Mapping[str, Any]) -> Shape:
    """Trunk that carries a model of these settings. Raises ValueError for one that can't."""
    kind = _kind(values)
    _refuse(values)

    def number(name: str, default: int | None = None) -> int:
        value = values.get(name)
        return int(checked(default if value is None else value, AtLeast1, name))

    n_heads, d_model = number("num_attention_heads"), number("hidden_size")
    head_dim = number("head_dim", max(1, d_model // n_heads))
    if head_dim * n_heads != d_model:
        raise ValueError(
            f"head_dim={head_dim} with {n_heads} heads and hidden_size={d_model}; the trunk's "
            "heads share out its width"
        )
    activation = values.get("hidden_act") or kind.activation
    if not isinstance(activation, str) or activation not in _ACTIVATIONS:
        raise ValueError(
            f"hidden_act={activation!r} is not one of {', '.join(_ACTIVATIONS)}, which the trunk's "
            f"layers have; {_INSTEAD}"
        )
    lengths = ("sliding_window", "max_position_embeddings")
    longest = [number(name) for name in lengths if values.get(name) is not None]
    return llama_shape(
        n_layers=number("num_hidden_layers"),
        d_model=d_model,
        d_ff=number("intermediate_size"),
        n_heads=n_heads,
        n_kv_heads=number("num_key_value_heads", n_heads),
        vocab_size=number("vocab_size"),
        tie_head=_flag(values, "tie_word_embeddings"),
        rope_theta=_rope_theta(values),
        norm_eps=_norm_eps(values.get("rms_norm_eps", kind.norm_eps)),
        activation=_ACTIVATIONS[activation],
        glu=kind.glu,
        max_seq_len=min(longest, default=None),
    )


def _kind(values: Mapping[str, Any]) -> _Kind:
    name, classes = values.get("model_type"), values.get("architectures") or ()
    if "auto_map" in values:
        raise ValueError(
            "config.json names code of its own (auto_map), which is never run here; "
            "load the model by transformers, with trust_remote_code if you trust it, and use "
            "experiments.init.retrofit()"
        )
    if not isinstance(name, str) or name not in _KINDS:
        reason = _REASONS.get(str(name))
        why = f" has {reason}, which the trunk has not" if reason else ""
        raise ValueError(
            f"model_type={name!r}{why}; the trunk carries {', '.join(_KINDS)}: {_INSTEAD}"
        )
    listed = isinstance(classes, (list, tuple))
    if not listed or not all(str(c).endswith("ForCausalLM") for c in classes):
        raise ValueError(f"architectures={classes!r} is no causal language model")
    return _KINDS[name]


def _refuse(values: Mapping[str, Any]) -> None:
    """Raises ValueError for what a Llama may have and the trunk has not."""
    for name in ("attention_bias", "mlp_bias"):
        if _flag(values, name):
            raise ValueError(f"{name}=true, and the trunk has no biases; {_INSTEAD}")
    if (quantised := values.get("quantization_config")) is not None:
        how = quantised.get("quant_method") if isinstance(quantised, Mapping) else quantised
        raise ValueError(f"the weights are quantised by {how}; give plain ones, or a gguf")


def _rope_theta(values: Mapping[str, Any]) -> float:
    """rope_theta, which transformers 5 has in rope_parameters, and 4 on its own."""
    rope = values.get("rope_parameters") or values.get("rope_scaling") or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"rope_scaling={rope!r} must be a group of keys")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"rope_type={kind!r}: the trunk does not scale rotary positions")
    part = rope.get("partial_rotary_factor", values.get("partial_rotary_factor", 1.0))
    if part not in (None, 1, 1.0):
        raise ValueError(f"partial_rotary_factor={part!r}: the trunk turns whole heads")
    base = rope.get("rope_theta", values.get("rope_theta", 10_000.0))
    return float(checked(base, Annotated[float, Within(0, 1e12, above=True)], "rope_theta"))


def _norm_eps(eps: Any) -> float | None:
    """rms_norm_eps; None for that of float32, which is the trunk's own default."""
    within = Annotated[float, Within(0, 1, above=True, below=True)]
    eps = float(checked(eps, within, "rms_norm_eps"))
    return None if eps == torch.finfo(torch.float32).eps else eps


def _flag(values: Mapping[str, Any], name: str) -> bool:
    return bool(checked(values.get(name) or False, bool, name))
