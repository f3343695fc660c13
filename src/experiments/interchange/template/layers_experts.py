"""The feed-forward layers of an exported model: dense, mixtures of experts, memories, PEER.

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

_CHUNK = 2**24  # numbers of gathered rows that are held at once


def identity(x: Tensor) -> Tensor:
    """x."""
    return x


def gelu_tanh(x: Tensor) -> Tensor:
    """GPT-2's."""
    return F.gelu(x, approximate="tanh")


def softmax(scores: Tensor) -> Tensor:
    """Over the experts."""
    return scores.softmax(dim=-1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": gelu_tanh,
    "relu": F.relu,
    "silu": F.silu,
    "identity": identity,
}
SCORES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": softmax,
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
}


def wide(x: Tensor) -> Tensor:
    """float32, or float64 as it is: what sums and scores are computed in."""
    return x if x.dtype == torch.float64 else x.float()


class Dense(nn.Module):
    """act(x W_in) W_out, or with glu act(x W_gate) * x W_in for the hidden units."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        d_ff = settings["d_ff"]
        self.activation = ACTIVATIONS[settings["activation"]]
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


class BatchNorm(nn.BatchNorm1d):
    """Normalises (T, features). frozen: by the running statistics in training too, which stay.

    They are no parameters: adapters are saved without them, and would be read back beside others.
    """

    frozen = True

    def forward(self, x: Tensor) -> Tensor:
        if not self.frozen:
            return super().forward(x)
        kept = (self.running_mean, self.running_var, self.weight, self.bias)
        return F.batch_norm(x, *kept, eps=self.eps)


class QueryNorm(nn.Module):
    """Normalises (T, H, d_key) queries: none, over d_key, or by the statistics of tokens."""

    def __init__(self, kind: str, n_heads: int, d_key: int) -> None:
        super().__init__()
        if kind == "batch":
            self.norm: nn.Module = BatchNorm(n_heads * d_key)
        else:
            self.norm = nn.LayerNorm(d_key) if kind == "layer" else nn.Identity()

    def forward(self, queries: Tensor) -> Tensor:
        if isinstance(self.norm, BatchNorm):
            return self.norm(queries.flatten(1)).view_as(queries)
        return self.norm(queries)


class ProductKeys(nn.Module):
    """Tokens to the rows that each head retrieves, and their gates."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.n_heads, self.top_k = settings["n_heads"], settings["top_k"]
        d_key, n_experts = settings["d_key"], settings["n_experts"]
        self.n_first = settings.get("n_first_keys")  # None: both halves have as many sub-keys
        self.score = SCORES[settings["score"]]
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
        queries = wide(self.query_norm(queries.to(self.sub_keys.dtype)))
        halves = queries.unflatten(-1, (2, -1))
        keys = wide(self.sub_keys)
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
    return torch.cat([torch.einsum("td,tjd->tj", wide(a), wide(table[i])) for a, i in parts])


def _sums(table: Tensor, index: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights_tj table[index_tj], (T, D)."""
    step = max(1, _CHUNK // (index.shape[1] * table.shape[1]))
    parts = zip(weights.split(step), index.split(step))
    return torch.cat([torch.einsum("tj,tjd->td", w, wide(table[i])) for w, i in parts])


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
        self.activation = ACTIVATIONS[settings["activation"]]
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
        self.activation = ACTIVATIONS[settings["activation"]]
        self.router = nn.Linear(d, n, bias=False)
        self.w_in = nn.Parameter(torch.randn(n, d, d_ff) * d**-0.5)
        self.w_gate = nn.Parameter(torch.randn(n, d, d_ff) * d**-0.5) if settings["glu"] else None
        self.w_out = nn.Parameter(torch.randn(n, d_ff, d) * d_ff**-0.5)
        self.shared_in = self.shared_gate = self.shared_out = None
        if shared:
            self.shared_in = nn.Linear(d, shared * d_ff, bias=False)
            if settings["glu"]:
                self.shared_gate = nn.Linear(d, shared * d_ff, bias=False)
            self.shared_out = nn.Linear(shared * d_ff, d, bias=False)
        self.register_buffer("selection_bias", torch.zeros(n))

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(0, -2)
        logits_TE = F.linear(wide(tokens), wide(self.router.weight))
        gates_TE = SCORES[self.settings["gate"]](logits_TE)
        if self.settings["routing"] == "expert_choice":
            y = self._expert_choice(tokens, gates_TE)
        else:
            y = self._token_choice(tokens, gates_TE)
        if self.shared_in is not None and self.shared_out is not None:
            gate = None if self.shared_gate is None else self.shared_gate(tokens)
            y = y + self.shared_out(self._hidden(self.shared_in(tokens), gate))
        return y.to(x.dtype).view_as(x)

    def _hidden(self, inner: Tensor, gate: Tensor | None) -> Tensor:
        return self.activation(inner) if gate is None else self.activation(gate) * inner

    def _expert(self, e: int, tokens: Tensor) -> Tensor:
        gate = None if self.w_gate is None else tokens @ self.w_gate[e]
        return self._hidden(tokens @ self.w_in[e], gate) @ self.w_out[e]

    def _token_choice(self, tokens: Tensor, gates_TE: Tensor) -> Tensor:
        k = self.settings["top_k"]
        index_TK = (gates_TE.detach() + self.selection_bias).topk(k, dim=-1).indices
        gates_TK = gates_TE.gather(-1, index_TK)
        if k > 1:
            gates_TK = gates_TK / gates_TK.sum(-1, keepdim=True)
        y = torch.zeros_like(wide(tokens))
        for e in index_TK.unique().tolist():
            t, place = (index_TK == e).nonzero(as_tuple=True)
            out = wide(self._expert(e, tokens[t])) * gates_TK[t, place].unsqueeze(-1)
            y = y.index_add(0, t, out.to(y.dtype))
        return y

    def _expert_choice(self, tokens: Tensor, gates_TE: Tensor) -> Tensor:
        n = self.settings["n_experts"]
        capacity = math.ceil(len(tokens) * self.settings["capacity_factor"] / n)
        gates_EC, index_EC = gates_TE.t().topk(capacity, dim=-1)
        y = torch.zeros_like(wide(tokens))
        for e in range(n):
            out = wide(self._expert(e, tokens[index_EC[e]])) * gates_EC[e].unsqueeze(-1)
            y = y.index_add(0, index_EC[e], out.to(y.dtype))
        return y


class Beside(nn.Module):
    """The sum of two layers of the same input."""

    def __init__(self, d: int, settings: dict[str, Any]) -> None:
        super().__init__()
        self.ffn, self.layer = layer_of(d, settings["frozen"]), layer_of(d, settings["trained"])

    def forward(self, x: Tensor) -> Tensor:
        return self.ffn(x) + self.layer(x)


KINDS: dict[str, type[nn.Module]] = {
    "dense": Dense,
    "none": NoLayer,
    "moe": MoE,
    "pkm": PKM,
    "peer": PEER,
    "beside": Beside,
}


def layer_of(d: int, settings: dict[str, Any]) -> nn.Module:
    return KINDS[settings["kind"]](d, settings)
