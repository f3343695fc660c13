"""Config of a decoder whose blocks hold feed-forward layers of several kinds."""

from typing import Any

from transformers import PretrainedConfig


class ExpertsConfig(PretrainedConfig):
    """A decoder: causal attention, no biases.

    ffns: for each block the settings of its feed-forward layer; `kind` is dense, none, moe, pkm,
        peer or beside. attention, norm, positions, residual: the settings of attention, of the
        norms, of what attention knows of where a token is, and of the residual path.
    causal: False if a layer routes by later tokens (expert choice); such a model scores texts but
        can't generate.
    freeze_batch_norm: running statistics of queries are used in training too, and not changed.
    hidden_act: no activation. Layers name their own; a class of another architecture that is given
        this config looks it up and fails, where it would else start from random weights.
    """

    model_type = "expert_isoflops"
    keys_to_ignore_at_inference = ("cache", "past_key_values")

    def __init__(
        self,
        vocab_size: int = 256,
        hidden_size: int = 64,
        num_hidden_layers: int = 1,
        num_attention_heads: int = 1,
        head_dim: int = 64,
        max_position_embeddings: int = 256,
        attention: dict[str, Any] | None = None,
        norm: dict[str, Any] | None = None,
        positions: dict[str, Any] | None = None,
        residual: dict[str, Any] | None = None,
        ffns: list[dict[str, Any]] | None = None,
        causal: bool = True,
        freeze_batch_norm: bool = True,
        tie_word_embeddings: bool = False,
        hidden_act: str = "expert_isoflops: see ffns",
        use_cache: bool = True,
        **others: Any,
    ) -> None:
        self.vocab_size = vocab_size
        self.hidden_size = hidden_size
        self.num_hidden_layers = num_hidden_layers
        self.num_attention_heads = num_attention_heads
        self.head_dim = head_dim
        self.max_position_embeddings = max_position_embeddings
        self.attention = attention
        self.norm = norm
        self.positions = positions
        self.residual = residual
        self.ffns = ffns if ffns is not None else [{"kind": "none"}] * num_hidden_layers
        self.causal = causal
        self.freeze_batch_norm = freeze_batch_norm
        self.hidden_act = hidden_act
        self.use_cache = use_cache and causal
        if len(self.ffns) != num_hidden_layers:
            raise ValueError(f"{len(self.ffns)} ffns for {num_hidden_layers} blocks: give one each")
        super().__init__(tie_word_embeddings=tie_word_embeddings, **others)
