"""A decoder whose blocks hold dense layers, mixtures of experts, product-key memories or PEER.

Plain torch, self-contained. Sources: PEER is He 2024 (arXiv:2407.04153), PKM Lample 2019
(arXiv:1907.05242), expert choice Zhou 2022 (arXiv:2202.09368). Auxiliary losses and the balancing
of experts are left out: they belong to training from the start.

Shape suffixes: T tokens, H heads, K retrieved a head, J = H K, S sub-keys a half, E experts,
D width.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_experts import ExpertsConfig

_ROPE_BASE = 10_000.0  # the harness's own
_CHUNK = 2**24  # numbers of gathered rows that are held at once
_CACHE = "cache" if "cache" in CausalLMOutputWithPast.__dataclass_fields__ else "past_key_values"
_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
    "silu": F.silu,
    "identity": lambda x: x,
}
_SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda s: s.softmax(-1),
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}
_NOT_CAUSAL = (
    "this model has a layer of expert choice, which routes by later tokens too: it is not causal "
    "and can't generate; it scores whole texts alone"
)


def _wide(x: Tensor) -> Tensor:
    """float32, or float64 as it is: what sums and scores are computed in."""
    return x if x.dtype == torch.float64 else x.float()


class Dense(nn.Module):
    """act(x W_in) W_out, or with glu act(x W_gate) * x W_in for the hidden units."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        d_ff = settings["d_ff"]
        self.activation = _ACTIVATIONS[settings["activation"]]
        self.w_in = nn.Linear(d, d_ff, bias=False)
        self.w_gate = nn.Linear(d, d_ff, bias=False) if settings["glu"] else None
        self.w_out = nn.Linear(d_ff, d, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.w_in(x)
        if self.w_gate is None:
            return self.w_out(self.activation(hidden))
        return self.w_out(self.activation(self.w_gate(x)) * hidden)


class NoLayer(nn.Module):
    """A block that keeps its attention alone."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class QueryNorm(nn.Module):
    """Of (T, H, d_key) queries: none, over d_key, or by the statistics of tokens."""

    def __init__(self, kind: str, n_heads: int, d_key: int) -> None:
        super().__init__()
        if kind == "batch":
            self.norm: nn.Module = nn.BatchNorm1d(n_heads * d_key)
        else:
            self.norm = nn.LayerNorm(d_key) if kind == "layer" else nn.Identity()

    def forward(self, queries: Tensor) -> Tensor:
        if isinstance(self.norm, nn.BatchNorm1d):
            return self.norm(queries.flatten(1)).view_as(queries)
        return self.norm(queries)


class ProductKeys(nn.Module):
    """Tokens to the rows that each head retrieves, and their gates."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.n_heads, self.top_k = settings["n_heads"], settings["top_k"]
        d_key, n_experts = settings["d_key"], settings["n_experts"]
        self.n_first = settings.get("n_first_keys")  # None: both halves have as many sub-keys
        self.score = _SCORES[settings["score"]]
        self.query = nn.Linear(d, self.n_heads * d_key, bias=False)
        self.query_norm = QueryNorm(settings["query_norm"], self.n_heads, d_key)
        sets = (2, math.isqrt(n_experts))
        if self.n_first is not None:
            sets = (self.n_first + n_experts // self.n_first,)
        shape = (*sets, d_key // 2)
        shape = shape if settings["share_keys"] else (self.n_heads, *shape)
        self.sub_keys = nn.Parameter(torch.randn(shape) * d_key**-0.5)

    def route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(T, D) to indices and gates, (T, H * K). Row i is the pair (i // S2, i % S2)."""
        queries = self.query(x).unflatten(-1, (self.n_heads, -1))
        queries = _wide(self.query_norm(queries.to(self.sub_keys.dtype)))
        halves = queries.unflatten(-1, (2, -1))
        keys = _wide(self.sub_keys)
        if self.n_first is None:
            sets = keys[..., 0, :, :], keys[..., 1, :, :]
        else:
            sets = keys[..., : self.n_first, :], keys[..., self.n_first :, :]
        best, sub = [], []
        for half, own in zip(halves.unbind(2), sets):
            scores = torch.einsum("thq,hsq->ths" if own.dim() == 3 else "thq,sq->ths", half, own)
            top, place = scores.topk(min(self.top_k, own.shape[-2]), dim=-1)
            best.append(top)
            sub.append(place)
        sums = (best[0].unsqueeze(-1) + best[1].unsqueeze(-2)).flatten(-2)
        n_second = sets[1].shape[-2]
        rows = (sub[0].unsqueeze(-1) * n_second + sub[1].unsqueeze(-2)).flatten(-2)
        top, place = sums.topk(self.top_k, dim=-1)
        return rows.gather(-1, place).flatten(1), self.score(top).flatten(1)


def _table(n: int, d: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(n, d) * d**-0.5)


def _dots(x: Tensor, table: Tensor, index: Tensor) -> Tensor:
    """x_t . table[index_tj], (T, J)."""
    step = max(1, _CHUNK // (index.shape[1] * table.shape[1]))
    parts = zip(x.split(step), index.split(step))
    return torch.cat([torch.einsum("td,tjd->tj", _wide(a), _wide(table[i])) for a, i in parts])


def _sums(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights_tj table[index_tj], (T, D)."""
    step = max(1, _CHUNK // (index.shape[1] * table.shape[1]))
    parts = zip(weights.split(step), index.split(step))
    return torch.cat([torch.einsum("tj,tjd->td", w, _wide(table[i])) for w, i in parts])


class PKM(ProductKeys):
    """The weighted sum of retrieved value rows."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__(d, settings)
        self.values = _table(settings["n_experts"], d)

    def forward(self, x: Tensor) -> Tensor:
        index, gates = self.route(x.flatten(0, -2))
        return _sums(self.values, index, gates).to(x.dtype).view_as(x)


class PEER(ProductKeys):
    """The weighted sum of retrieved experts of one neuron: gate act(w_down . x) w_up."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__(d, settings)
        n = settings["n_experts"]
        self.activation = _ACTIVATIONS[settings["activation"]]
        self.w_down = _table(n, d)
        self.w_gate = _table(n, d) if settings["glu"] else None
        self.w_up = _table(n, d)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        index, gates = self.route(tokens)
        hidden = _dots(tokens, self.w_down, index)
        if self.w_gate is None:
            hidden = self.activation(hidden)
        else:
            hidden = self.activation(_dots(tokens, self.w_gate, index)) * hidden
        return _sums(self.w_up, index, hidden * gates).to(x.dtype).view_as(x)


class MoE(nn.Module):
    """Experts of one hidden layer each, chosen by tokens, or choosing tokens, and shared ones."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        n, d_ff, shared = settings["n_experts"], settings["d_ff"], settings["n_shared_experts"]
        self.settings = settings
        self.activation = _ACTIVATIONS[settings["activation"]]
        self.router = nn.Linear(d, n, bias=False)
        self.w_in = nn.Parameter(torch.randn(n, d, d_ff) * d**-0.5)
        self.w_out = nn.Parameter(torch.randn(n, d_ff, d) * d_ff**-0.5)
        self.shared_in = nn.Linear(d, shared * d_ff, bias=False) if shared else None
        self.shared_out = nn.Linear(shared * d_ff, d, bias=False) if shared else None
        self.register_buffer("selection_bias", torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        logits_TE = F.linear(_wide(tokens), _wide(self.router.weight))
        gates_TE = _SCORES[self.settings["gate"]](logits_TE)
        if self.settings["routing"] == "expert_choice":
            y = self._expert_choice(tokens, gates_TE)
        else:
            y = self._token_choice(tokens, gates_TE)
        if self.shared_in is not None and self.shared_out is not None:
            y = y + self.shared_out(self.activation(self.shared_in(tokens)))
        return y.to(x.dtype).view_as(x)

    def _expert(self, e: int, tokens: Tensor) -> Tensor:
        return self.activation(tokens @ self.w_in[e]) @ self.w_out[e]

    def _token_choice(self, tokens: Tensor, gates_TE: Tensor) -> Tensor:
        k = self.settings["top_k"]
        index_TK = (gates_TE.detach() + self.selection_bias).topk(k, dim=-1).indices
        gates_TK = gates_TE.gather(-1, index_TK)
        if k > 1:
            gates_TK = gates_TK / gates_TK.sum(-1, keepdim=True)
        y = torch.zeros_like(_wide(tokens))
        for e in index_TK.unique().tolist():
            t, place = (index_TK == e).nonzero(as_tuple=True)
            out = _wide(self._expert(e, tokens[t])) * gates_TK[t, place].unsqueeze(-1)
            y = y.index_add(0, t, out.to(y.dtype))
        return y

    def _expert_choice(self, tokens: Tensor, gates_TE: Tensor) -> Tensor:
        n = self.settings["n_experts"]
        capacity = math.ceil(len(tokens) * self.settings["capacity_factor"] / n)
        gates_EC, index_EC = gates_TE.t().topk(capacity, dim=-1)
        y = torch.zeros_like(_wide(tokens))
        for e in range(n):
            out = _wide(self._expert(e, tokens[index_EC[e]])) * gates_EC[e].unsqueeze(-1)
            y = y.index_add(0, index_EC[e], out.to(y.dtype))
        return y


class Beside(nn.Module):
    """The sum of two layers of the same input."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.ffn, self.layer = _layer(d, settings["frozen"]), _layer(d, settings["trained"])

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(x) + self.layer(x)


_KINDS: dict[str, type[nn.Module]] = {
    "dense": Dense,
    "none": NoLayer,
    "moe": MoE,
    "pkm": PKM,
    "peer": PEER,
    "beside": Beside,
}


def _layer(d: int, settings: dict[str, Any]) -> nn.Module:
    return _KINDS[settings["kind"]](d, settings)


class RMSNorm(nn.Module):
    """x / rms(x) * weight, in float32 or wider."""

    def __init__(self, d: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(_wide(x), self.weight.shape, _wide(self.weight), self.eps).to(x.dtype)


class Attention(nn.Module):
    """Causal self-attention. qkv: rows of the queries' heads, of the keys', of the values'."""

    def __init__(self, config: ExpertsConfig, block: int) -> None:
        super().__init__()
        self.block, self.d_head = block, config.head_dim
        self.heads = config.num_attention_heads, config.num_key_value_heads
        n_heads, n_kv = self.heads
        self.qkv = nn.Linear(config.hidden_size, (n_heads + 2 * n_kv) * self.d_head, bias=False)
        self.out = nn.Linear(n_heads * self.d_head, config.hidden_size, bias=False)

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        n_heads, n_kv = self.heads
        heads = self.qkv(x).unflatten(-1, (-1, self.d_head)).transpose(1, 2)
        query, key, value = heads.split((n_heads, n_kv, n_kv), dim=1)
        query, key = _rotate(query, angles), _rotate(key, angles)
        if cache is not None:
            key, value = cache.update(key, value, self.block)
        y = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=mask,
            is_causal=mask is None and query.shape[2] > 1,
            enable_gqa=n_heads != n_kv,
        )
        return self.out(y.transpose(1, 2).flatten(2))


def _rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Turns the pairs (x_i, x_{i + d/2}) of (batch, heads, n, d) by (batch or 1, n, d/2) angles."""
    left, right = x.chunk(2, dim=-1)
    cos, sin = (f(angles).unsqueeze(1).to(x.dtype) for f in (torch.cos, torch.sin))
    return torch.cat([left * cos - right * sin, left * sin + right * cos], dim=-1)


class Block(nn.Module):
    """x + attention(norm(x)), then x + ffn(norm(x))."""

    def __init__(self, config: ExpertsConfig, block: int) -> None:
        super().__init__()
        d, eps = config.hidden_size, config.rms_norm_eps
        self.attention_norm, self.ffn_norm = RMSNorm(d, eps), RMSNorm(d, eps)
        self.attention = Attention(config, block)
        self.ffn = _layer(d, config.ffns[block])

    def forward(self, x: Tensor, angles: Tensor, mask: Tensor | None, cache: Any) -> Tensor:
        x = x + self.attention(self.attention_norm(x), angles, mask, cache)
        return x + self.ffn(self.ffn_norm(x))


class ExpertsForCausalLM(PreTrainedModel, GenerationMixin):
    """Token ids to the logits of the next ones."""

    config_class = ExpertsConfig
    base_model_prefix = "model"
    _no_split_modules = ("Block",)
    _supports_sdpa = True
    _tied_weights_keys = {"head.weight": "embedding.weight"}  # noqa: RUF012 - transformers' own

    def __init__(self, config: ExpertsConfig) -> None:
        super().__init__(config)
        self.embedding = nn.Embedding(config.vocab_size, config.hidden_size)
        self.blocks = nn.ModuleList(Block(config, i) for i in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """Nothing: modules draw their own weights when they are made. transformers would else draw
        again over what its loading has not marked as loaded."""

    @classmethod
    def from_pretrained(cls, *places: Any, **options: Any) -> Any:
        """As transformers', and an error where a tensor is missing, unknown or of another size."""
        asked = options.pop("output_loading_info", False)
        model, info = super().from_pretrained(*places, output_loading_info=True, **options)
        wrong = {what: names for what, names in info.items() if names and what.endswith("_keys")}
        if wrong:
            raise ValueError(f"the weights are not this model's: {wrong}; get its files again")
        return (model, info) if asked else model

    def get_input_embeddings(self) -> nn.Module:
        return self.embedding

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.embedding = value

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def set_output_embeddings(self, new_embeddings: nn.Module) -> None:
        self.head = new_embeddings

    def generate(self, *inputs: Any, **options: Any) -> Any:
        """As transformers'. Raises ValueError for a model that is not causal."""
        if not self.config.causal:
            raise ValueError(_NOT_CAUSAL)
        return super().generate(*inputs, **options)

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
        """(batch, n) ids to (batch, n, vocab_size) logits.

        cache, or past_key_values as older releases call it: transformers', of the tokens before.
        attention_mask: (batch, all tokens so far), 0 for padding; or a mask of four dimensions.
        """
        x = self.embedding(input_ids) if inputs_embeds is None else inputs_embeds
        cache = past_key_values if cache is None else cache
        use_cache = self.config.use_cache if use_cache is None else use_cache
        if cache is None and use_cache and not self.training:
            cache = DynamicCache()
        if cache is not None and not self.config.causal:
            raise ValueError(_NOT_CAUSAL)
        n_past = 0 if cache is None else int(cache.get_seq_length())
        mask = _mask(attention_mask, x, n_past)
        if position_ids is None:
            position_ids = torch.arange(n_past, n_past + x.shape[1], device=x.device)[None]
        angles = _angles(position_ids, self.config)
        for block in self.blocks:
            x = block(x, angles, mask, cache)
        kept = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        logits = self.head(self.norm(x[:, kept]))
        loss = None
        if labels is not None:
            others.pop("vocab_size", None)
            loss = self.loss_function(
                logits=logits, labels=labels, vocab_size=self.config.vocab_size, **others
            )
        output = CausalLMOutputWithPast(loss=loss, logits=logits, **{_CACHE: cache})
        return output.to_tuple() if return_dict is False else output


def _angles(position_ids: Tensor, config: ExpertsConfig) -> Tensor:
    """The rotary angles, (batch or 1, n, head_dim / 2), float32. Su 2021, arXiv:2104.09864."""
    d_head = config.head_dim
    steps, base = torch.arange(0, d_head, 2, device=position_ids.device) / d_head, config.rope_base
    frequency = base**-steps if base == _ROPE_BASE else 1.0 / base**steps  # as it was trained
    return position_ids[..., None].float() * frequency


def _mask(attention_mask: Tensor | None, x: Tensor, n_past: int) -> Tensor | None:
    """What each of n new positions sees, (batch or 1, 1, n, n_past + n) bool; None: all before it.

    Every position sees itself, padding too: else its row would be empty, and not a number.
    """
    if attention_mask is not None and attention_mask.dim() == 4:
        return attention_mask
    n = x.shape[1]
    padded = attention_mask is not None and not bool(attention_mask.all())
    if not padded and (n == 1 or n_past == 0):
        return None
    before = torch.ones(n, n_past + n, dtype=torch.bool, device=x.device).tril(n_past)[None, None]
    if not padded:
        return before
    itself = torch.eye(n, n_past + n, dtype=torch.bool, device=x.device).roll(n_past, 1)
    return before & attention_mask[:, None, None, : n_past + n].bool() | itself
