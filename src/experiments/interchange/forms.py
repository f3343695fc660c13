"""Two forms of an export: a native architecture of transformers, or our own modeling file."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.config.nodes import make_node
from experiments.config.schema import OF_TRUNK
from experiments.init.exported import FLOAT_EPS, MODEL_TYPE, layer_node
from experiments.init.llama import from_trunk
from experiments.init.slots import evaluating
from experiments.init.source import Shape
from experiments.models.attention.gqa import GQAConfig
from experiments.models.batch_norm import BatchNorm
from experiments.models.ffn._base import second_names
from experiments.models.folded import folded
from experiments.models.lora import merged
from experiments.models.norms.rms import RMSNormConfig
from experiments.models.positions.rope import RoPE
from experiments.models.residuals.pre_norm import PreNorm
from experiments.models.transformer import Transformer, TransformerConfig

_OURS = "ExpertsForCausalLM"
HIDDEN_ACTS = {  # our activations by transformers' names
    "gelu": "gelu",
    "gelu_tanh": "gelu_pytorch_tanh",
    "relu": "relu",
    "silu": "silu",
    "identity": "linear",
}


@dataclass(frozen=True, kw_only=True)
class Form:
    """A model as it is exported: config.json's values, and the tensors by the architecture's names.

    architecture: transformers' class. is_native: it comes with transformers, and needs no code.
    tokens, logits: (1, n) ids and what the model says of them, to be compared with what is written.
    """

    architecture: str
    is_native: bool
    config: Mapping[str, Any]
    state: Mapping[str, Tensor]
    causal: bool
    tokens: Tensor
    logits: Tensor


def find_form(model: Transformer, model_name: str, end_of_text: int) -> Form:
    """Model as transformers loads it.

    A Llama where positions are rotary, the path is pre-norm by RMS norms and all blocks hold the
    same dense layer with a gate, an Arcee where it has none: the arithmetic is theirs. Otherwise
    our modeling file.
    A parametrization's multipliers are put into the weights. Raises ValueError for a layer without
    a form.
    """
    said = dict(zip(("tokens", "logits"), _said(model, end_of_text)))
    model = folded(model)
    config = model.config
    shape = trunk_shape(config, model_name)
    tensors = model.state_dict().items()
    state = merged({name: t.detach().cpu().contiguous().clone() for name, t in tensors})
    causal = all(layer.causal for layer in model.ffn_layers())
    common = {
        "vocab_size": config.vocab_size,
        "hidden_size": config.d_model,
        "num_hidden_layers": len(config.ffns),
        "num_attention_heads": config.n_heads,
        "head_dim": config.d_head,
        "max_position_embeddings": config.seq_len,
        "tie_word_embeddings": config.tie_head,
        "bos_token_id": None,
        "eos_token_id": end_of_text,
        "pad_token_id": None,
        "dtype": "float32",
    }
    first: Any = config.ffns[0]
    attention, norm, positions = config.attention, config.norm, config.positions
    is_mlp = getattr(first, "is_mlp", False) and all(ffn == first for ffn in config.ffns)
    if (
        is_mlp
        and isinstance(attention, GQAConfig)
        and isinstance(norm, RMSNormConfig)
        and isinstance(positions, RoPE)
        and isinstance(config.residual, PreNorm)
    ):
        kind = "Llama" if first.glu else "Arcee"
        native = {
            "architectures": [f"{kind}ForCausalLM"],
            "model_type": kind.lower(),
            **common,
            "intermediate_size": first.d_ff(config.d_model),
            "hidden_act": HIDDEN_ACTS[first.activation],
            "num_key_value_heads": attention.n_kv_heads or config.n_heads,
            "rms_norm_eps": FLOAT_EPS if norm.eps is None else norm.eps,
            "rope_parameters": {"rope_type": "default", "rope_theta": positions.base},
            "attention_bias": False,
            "mlp_bias": False,
        }
        return Form(
            architecture=f"{kind}ForCausalLM",
            is_native=True,
            config=native,
            state=from_trunk(state, shape),
            causal=True,
            **said,
        )
    ours = {
        "architectures": [_OURS],
        "model_type": MODEL_TYPE,
        "auto_map": {
            "AutoConfig": "configuration_experts.ExpertsConfig",
            "AutoModel": "modeling_experts.ExpertsModel",
            "AutoModelForCausalLM": f"modeling_experts.{_OURS}",
            "AutoModelForSequenceClassification": (
                "modeling_experts.ExpertsForSequenceClassification"
            ),
        },
        **common,
        **{part: getattr(shape, part) for part in OF_TRUNK},
        "hidden_act": f"{MODEL_TYPE}: see ffns",  # other architectures fail on it, and should
        "ffns": [layer_node(ffn) for ffn in config.ffns],
        "causal": causal,
        "model_name": model_name,
    }
    if any(isinstance(module, BatchNorm) for module in model.modules()):
        ours["freeze_batch_norm"] = True
    for name in second_names(model):
        del state[name]
    if config.tie_head:
        state.pop("head.weight", None)  # of a folded model, a parameter of its own
    return Form(
        architecture=_OURS, is_native=False, config=ours, state=state, causal=causal, **said
    )


@torch.no_grad()
def _said(model: Transformer, end_of_text: int) -> tuple[Tensor, Tensor]:
    """Ids (1, n) of one document, from all over the vocabulary, and their logits (1, n, vocab)."""
    device, config = model.embedding.weight.device, model.config
    tokens = torch.linspace(0, config.vocab_size - 1, min(config.seq_len, 32)).long()
    tokens[tokens == end_of_text] = (end_of_text + 1) % config.vocab_size
    with evaluating(model):
        return tokens[None], model(tokens[None].to(device)).cpu()


def trunk_shape(config: TransformerConfig, model_name: str) -> Shape:
    """Trunk, as the sources of weights describe one."""
    return Shape(
        n_layers=len(config.ffns),
        d_model=config.d_model,
        d_head=config.d_head,
        attention=make_node(config.attention.explicit(config.n_heads)),
        vocab_size=config.vocab_size,
        tie_head=config.tie_head,
        positions=make_node(config.positions),
        norm=make_node(config.norm),
        residual=make_node(config.residual),
        ffns=tuple(layer_node(ffn) for ffn in config.ffns),
        name=model_name,
    )


def n_bytes(state: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in state.values())


def are_equal(state: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether two states have the same names, types and values."""
    return state.keys() == other.keys() and all(
        state[n].dtype == other[n].dtype and torch.equal(state[n], other[n]) for n in state
    )
