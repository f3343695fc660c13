"""A decoder whose blocks hold dense layers, mixtures of experts, product-key memories or PEER.

Plain torch beside transformers' own classes. The feed-forward layers are the source that trained
them, in the files beside this one; layers_experts.py names them.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import (
    BaseModelOutputWithPast,
    CausalLMOutputWithPast,
    SequenceClassifierOutputWithPast,
)

from ._base import second_names, share
from .batch_norm import BatchNorm
from .configuration_experts import ExpertsConfig
from .layers_experts import CONFIGS
from .positions import Seen, seen_at
from .residual import Block as PlainBlock
from .tokens import Tokens
from .tokens_experts import make_tokens

_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
_OF_LOSS = ("ignore_index", "num_items_in_batch", "shift_labels")  # keywords of transformers' loss
_NOT_CAUSAL = (
    "this model has a layer of expert choice, which routes by later tokens too: it is not causal "
    "and can't generate; it scores whole texts alone"
)


def make_layer(d: int, node: dict[str, Any]) -> nn.Module:
    """Feed-forward layer of a node of config.json's ffns."""
    return _read_config(node).build(d)


def _read_config(node: dict[str, Any]) -> Any:
    values = {name: value for name, value in node.items() if name != "_target_"}
    for name, value in values.items():
        if isinstance(value, dict) and "_target_" in value:  # a layer within the layer
            values[name] = _read_config(value)
        elif isinstance(value, list):
            values[name] = tuple(value)
    return CONFIGS[node["_target_"]](**values)


class Past:
    """Keys and values that transformers' cache keeps for one block."""

    def __init__(self, cache: Any, block: int) -> None:
        self.cache, self.block = cache, block
        self.length = int(cache.get_seq_length(block))

    def extend(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """New positions' keys and values to those of all positions so far."""
        return self.cache.update(key, value, self.block)


class Block(GradientCheckpointingLayer, PlainBlock):
    """Attention and a feed-forward layer, with transformers' cache."""

    def __init__(self, config: ExpertsConfig, block: int) -> None:
        d, norm, residual = (
            config.hidden_size,
            _read_config(config.norm),
            _read_config(config.residual),
        )
        attention = _read_config(config.attention).build(d, config.head_dim, 1.0)
        norms = [norm.build(d) for _ in residual.norms]
        super().__init__(residual, attention, make_layer(d, config.ffns[block]), norms)
        self.block = block

    def forward(
        self,
        x: Tensor,
        seen: Seen,
        cache: Any = None,
        tokens: Tokens | None = None,
    ) -> Tensor:
        past = None if cache is None else Past(cache, self.block)
        return PlainBlock.forward(self, x, seen, past, tokens)


class ExpertsModel(PreTrainedModel):
    """Token ids to hidden states. The classes with a head have its tensors by the same names."""

    config_class = ExpertsConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ("Block",)
    _supports_sdpa = True
    _keys_to_ignore_on_load_unexpected = (r"^head\.",)
    drawn: tuple[str, ...] = ()  # tensors that start at random where a folder has none

    def __init__(self, config: ExpertsConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        share(layer for block in self.blocks for layer in block.ffn.layers())
        self._shared = second_names(self)
        self._tied_weights_keys = {**(self._tied_weights_keys or {}), **self._shared}
        self.norm = _read_config(config.norm).build(config.hidden_size)
        self.positions = _read_config(config.positions)
        for module in self.modules():
            if isinstance(module, BatchNorm):
                module.frozen = config.freeze_batch_norm
        for block in self.blocks:
            for layer in block.ffn.layers():
                layer.balances = False
        self._add_head(config)
        self.post_init()

    def _add_head(self, config: ExpertsConfig) -> None:
        """Parts that a class has beside the trunk."""

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: modules draw their own weights when they are made. transformers would else draw
        again over what its loading has not marked as loaded."""

    @classmethod
    def from_pretrained(cls, *places: Any, **options: Any) -> Any:
        """As transformers', and an error where a tensor is missing, unknown or of another size."""
        asked = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(*places, output_loading_info=True, **options)
        keys = {what: names for what, names in info.items() if what.endswith("_keys")}
        wrong = {what: left for what, names in keys.items() if (left := set(names) - {*cls.drawn})}
        if wrong:
            raise ValueError(f"the weights are not this model's: {wrong}; get its files again")
        model._restore_buffers()
        return (model, info) if asked else model

    def _restore_buffers(self) -> None:
        """Buffers of layers that are not saved, which transformers' loading leaves at what memory
        held: as a new layer has them."""
        for block, node in zip(self.blocks, self.config.ffns):
            lost = dict(block.ffn.named_buffers()).keys() - block.ffn.state_dict().keys()
            if lost:
                new = make_layer(self.config.hidden_size, node)
                for name in lost:
                    block.ffn.get_buffer(name).copy_(new.get_buffer(name))

    def get_expanded_tied_weights_keys(self, *options: Any, **others: Any) -> dict[str, str]:
        """As transformers', which has none where the head is not tied."""
        return {**super().get_expanded_tied_weights_keys(*options, **others), **self._shared}

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Any = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """(batch, n) ids to (batch, n, hidden_size), after the last norm.

        cache, or past_key_values as older releases call it: transformers', of the tokens before.
        attention_mask: (batch, all tokens so far), 0 for padding; or a mask of four dimensions.
        output_hidden_states: also the embedding and each block's output, the last one normed, as in
        transformers' own decoders.
        """
        cache = past_key_values if cache is None else cache
        config = self.config
        _check_keywords(config, output_hidden_states, output_attentions, others)
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache and not self.training:
            cache = DynamicCache()
        if cache is not None and not config.causal:
            raise ValueError(_NOT_CAUSAL)
        n_past = 0 if cache is None else int(cache.get_seq_length())
        n_keys = _n_keys(cache, n_past + x.shape[1])
        mask = _mask(attention_mask, x, n_past, n_keys)
        if position_ids is None:
            position_ids = torch.arange(n_past, n_past + x.shape[1], device=x.device)[None]
        heads = (config.num_attention_heads, config.head_dim)
        seen = seen_at(self.positions, position_ids, n_keys, heads, mask)
        tokens, states = None, [x]
        if any(block.ffn.reads_tokens for block in self.blocks):
            tokens = make_tokens(input_ids, attention_mask, n_past, cache, len(self.blocks))
        for block in self.blocks:
            x = block(x, seen, cache=cache, tokens=tokens)
            states.append(x)
        x = states[-1] = self.norm(x)
        if output_hidden_states is None:
            output_hidden_states = config.output_hidden_states
        kept = tuple(states) if output_hidden_states else None
        output = BaseModelOutputWithPast(last_hidden_state=x, hidden_states=kept, **{_CACHE: cache})
        return output.to_tuple() if return_dict is False else output


class ExpertsForCausalLM(ExpertsModel, GenerationMixin):
    """Token ids to the logits of the next ones."""

    _keys_to_ignore_on_load_unexpected = None
    _tied_weights_keys = {"head.weight": "embedding.weight"}  # noqa: RUF012 - transformers' own

    def _add_head(self, config: ExpertsConfig) -> None:
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.head = new_embeddings

    def generate(self, *inputs: Any, **options: Any) -> Any:
        """As transformers'. Raises ValueError for a model that is not causal."""
        if not self.config.causal:
            raise ValueError(_NOT_CAUSAL)
        return super().generate(*inputs, **options)

    def prepare_inputs_for_generation(
        self, *inputs: Any, tokenizer: Any = None, **kwargs: Any
    ) -> dict[str, Any]:
        """As transformers', whose ways to generate hand the tokenizer of stop strings on."""
        return super().prepare_inputs_for_generation(*inputs, **kwargs)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        cache: Any = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """(batch, n) ids to (batch, n, vocab_size) logits; the rest as in ExpertsModel."""
        of_loss = {name: others.pop(name) for name in _OF_LOSS if name in others}
        seen = (input_ids, attention_mask, position_ids, past_key_values, inputs_embeds, use_cache)
        found = super().forward(*seen, cache, **others)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(found.last_hidden_state[:, kept])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **of_loss
            )
        states, cache = found.hidden_states, getattr(found, _CACHE)
        output = CausalLMOutputWithPast(
            loss=loss, logits=logits, hidden_states=states, **{_CACHE: cache}
        )
        return output.to_tuple() if return_dict is False else output


class ExpertsForSequenceClassification(ExpertsModel):
    """Token ids to the logits of config.num_labels classes, read at each text's last token."""

    drawn = ("score.weight",)

    def _add_head(self, config: ExpertsConfig) -> None:
        self.num_labels = config.num_labels
        self.score = nn.Linear(config.hidden_size, config.num_labels, bias=False)

    def _init_weights(self, module: nn.Module) -> None:
        """Head's, which no export has."""
        if module is self.score:
            nn.init.normal_(module.weight, std=self.config.hidden_size**-0.5)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        return_dict: bool | None = None,
        **others: Any,
    ) -> Any:
        """(batch, n) ids to (batch, num_labels). Texts of other lengths need an attention_mask."""
        of_loss = {name: others.pop(name) for name in _OF_LOSS if name in others}
        found = super().forward(input_ids, attention_mask, **{"use_cache": False, **others})
        x = found.last_hidden_state
        last = torch.full((len(x),), x.shape[1] - 1, device=x.device)
        if attention_mask is not None:
            places = torch.arange(x.shape[1], device=x.device)
            last = (attention_mask.to(x.device) * places).argmax(-1)
        logits = self.score(x[torch.arange(len(x), device=x.device), last])
        loss = None
        if labels is not None:
            loss = self.loss_function(
                logits=logits, labels=labels, pooled_logits=logits, config=self.config, **of_loss
            )
        states = found.hidden_states
        output = SequenceClassifierOutputWithPast(loss=loss, logits=logits, hidden_states=states)
        return output.to_tuple() if return_dict is False else output


def _check_keywords(
    config: ExpertsConfig, hidden_states: Any, attentions: Any, others: dict[str, Any]
) -> None:
    """Raises TypeError for a keyword that nothing reads, and ValueError for what is not given."""
    unknown = [name for name, value in others.items() if value is not None]
    if unknown:
        raise TypeError(f"forward() got an unexpected keyword argument {unknown[0]!r}")
    if not isinstance(hidden_states, bool | None):
        raise ValueError(f"output_hidden_states={hidden_states!r} must be True or False")
    if config.output_attentions if attentions is None else attentions:
        raise ValueError(
            "output_attentions=True: attention's weights are not kept, since "
            "scaled_dot_product_attention doesn't give them; leave it at False"
        )


def _n_keys(cache: Any, n: int) -> int:
    """Keys that the cache gives for n positions: those, or all places of one of a fixed size."""
    first = next(iter(getattr(cache, "layers", ())), None)
    return getattr(first, "max_cache_len", None) or n


def _mask(attention_mask: Tensor | None, x: Tensor, n_past: int, n_keys: int) -> Tensor | None:
    """What each of n new positions sees, (batch or 1, 1, n, n_keys) bool; None: all before it.

    Every position sees itself, padding too: else its row would be empty, and not a number.
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask
    n = x.shape[1]
    padded = attention_mask is not None and not bool(attention_mask.all())
    is_whole = n_keys == n_past + n  # no places that are still empty
    if not padded and is_whole and (n == 1 or n_past == 0):
        return None
    before = torch.ones(n, n_keys, dtype=torch.bool, device=x.device).tril(n_past)[None, None]
    if not padded:
        return before
    itself = torch.eye(n, n_keys, dtype=torch.bool, device=x.device).roll(n_past, 1)
    padding = F.pad(attention_mask[:, : n_past + n].bool(), (0, n_keys - n_past - n))
    return before & padding[:, None, None] | itself
