"""Random transformers models of a few thousand weights: three blocks of width 32."""

import functools
from typing import Any

import torch

VOCABULARY = 64
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
SIZES: dict[str, Any] = IDS | {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
GROUPED = SIZES | {"num_key_value_heads": 2}
GPT2 = IDS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
GPT2 |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
LAYERS = "model.layers.{}.mlp"
ROTARY = {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4}, "sliding_window": 16}
CARRIED = {"Arcee": GROUPED}  # by our trunk

# the class's name, without its ending, to the config's values
BUILT_IN = {
    "GPT2": GPT2,
    "GPTNeoX": SIZES,
    "Llama": GROUPED,
    "Mistral": GROUPED | {"head_dim": 8},
    "Qwen2": GROUPED,
    "Qwen3": GROUPED | {"head_dim": 8},
    "SmolLM3": GROUPED,
}
# and where the MLP of a block is; some of them are built in too
OTHERS: dict[str, tuple[dict[str, Any], str | tuple[str, str]]] = {
    "Gemma": (GROUPED | {"head_dim": 8}, LAYERS),
    "Gemma2": (GROUPED | {"head_dim": 8}, LAYERS),
    "Gemma3": (GROUPED | {"head_dim": 8}, LAYERS),
    "Phi": (SIZES, LAYERS),
    "Phi3": (GROUPED, LAYERS),
    "StableLm": (GROUPED, LAYERS),
    "Cohere": (GROUPED, LAYERS),
    "Olmo2": (GROUPED, LAYERS),
    "Starcoder2": (GROUPED, LAYERS),
    "Nemotron": (GROUPED, LAYERS),
    "Mixtral": (GROUPED | {"num_local_experts": 4}, LAYERS),
    "Falcon": (SIZES, "transformer.h.{}.mlp"),
    "GPTJ": (GPT2 | {"rotary_dim": 4}, "transformer.h.{}.mlp"),
    "CodeGen": (GPT2 | {"rotary_dim": 4}, "transformer.h.{}.mlp"),
    "Lfm2": (
        GROUPED | {"layer_types": ["conv", "full_attention", "conv"]},
        "model.layers.{}.feed_forward",
    ),
    "Glm4": (GROUPED | {"head_dim": 8}, LAYERS),
    "Bloom": (IDS | {"hidden_size": 32, "n_layer": 3, "n_head": 4}, "transformer.h.{}.mlp"),
    "OPT": (
        SIZES | {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0},
        ("model.decoder.layers.{}.fc1", "model.decoder.layers.{}.fc2"),
    ),
    "XGLM": (
        IDS
        | {"d_model": 32, "ffn_dim": 48, "num_layers": 3, "attention_heads": 4}
        | dict.fromkeys(("dropout", "attention_dropout", "layerdrop"), 0.0),
        ("model.layers.{}.fc1", "model.layers.{}.fc2"),
    ),
    "Bart": (
        IDS
        | {"d_model": 32, "decoder_layers": 3, "encoder_layers": 3, "dropout": 0.0}
        | dict.fromkeys(("decoder_ffn_dim", "encoder_ffn_dim"), 48)
        | dict.fromkeys(("decoder_attention_heads", "encoder_attention_heads"), 4),
        ("model.decoder.layers.{}.fc1", "model.decoder.layers.{}.fc2"),
    ),
    "GptOss": (
        GROUPED | {"head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 2} | ROTARY,
        ("model.layers.{}.mlp.router", "model.layers.{}.mlp.experts"),
    ),
    "Llama4": (
        GROUPED
        | {"head_dim": 8, "num_local_experts": 4, "intermediate_size_mlp": 48}
        | {"moe_layers": [0, 1, 2]},
        ("model.layers.{}.feed_forward.router", "model.layers.{}.feed_forward.shared_expert"),
    ),
}
PAIRS = [kind for kind, (_, mlp) in OTHERS.items() if isinstance(mlp, tuple)]


def tiny(kind: str, **values: Any) -> Any:
    """A new model in evaluation mode, the same each time."""
    import transformers

    both = BUILT_IN | CARRIED
    known = both[kind] if kind in both else OTHERS[kind][0]
    text = "Text" if kind in ("Llama4", "Gemma3") else ""
    config = getattr(transformers, f"{kind}{text}Config")(**known | values)
    ending = "LMHeadModel" if kind == "GPT2" else "ForCausalLM"
    torch.manual_seed(0)
    model = getattr(transformers, kind + ending)(config).eval()
    with torch.no_grad():  # biases that start at zero, and norms at one, would hide mistakes
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@functools.cache
def tokens() -> torch.Tensor:
    """(2, 9) token ids."""
    return torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(0))


def logits(model: Any) -> torch.Tensor:
    """Of tokens(), without gradients; dropout, where a model has it, by the same seed."""
    torch.manual_seed(7)
    with torch.no_grad():
        return model(input_ids=tokens()).logits
