"""Trunk's half-blocks and its head, written out: what the operators of trunk.py are held to.

product(a, b): a @ b, exact, or of operands that are rounded to bfloat16 (Rounded).
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.kernels import trunk
from experiments.kernels.build import BuildError, load
from experiments.kernels.cpp import levels

EPS, TIMES = 1e-6, 0.7
ACTIVATIONS = {
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / math.sqrt(2))),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    ),
    "relu": lambda x: x.clamp(min=0),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "identity": lambda x: x,
}


def trunk_levels() -> list[str]:
    """Levels of processor that run here; none without a compiler."""
    try:
        return levels(load())
    except BuildError:
        return []


class Rounded(torch.autograd.Function):
    """a @ b of operands rounded to bfloat16; so are those of the products in its gradients."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return _near(a) @ _near(b)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        g = _near(grad)
        return (g @ _near(b).mT).sum_to_size(a.shape), (_near(a).mT @ g).sum_to_size(b.shape)


def _near(x: Tensor) -> Tensor:
    return x.bfloat16().to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Case:
    """An operator's inputs, float32; those that are trained; the operator, and its formula."""

    inputs: tuple[Tensor | None, ...]
    fused: Callable[..., Tensor]
    formula: Callable[..., Tensor]  # of a product, then the inputs

    def leaves(self, frozen: Collection[int] = ()) -> list[Tensor | None]:
        """Copies of the inputs that are trained, but for those of these places."""
        given = enumerate(self.inputs)
        return [t if t is None else t.clone().requires_grad_(i not in frozen) for i, t in given]

    def results(self, double: bool = False, product: Any = torch.matmul) -> list[Tensor]:
        """Output and every gradient; double: by the formula, in float64."""
        dtype = torch.float64 if double else torch.float32
        leaves = [t if t is None else t.to(dtype).clone().requires_grad_() for t in self.inputs]
        y = self.formula(product, *leaves) if double else self.fused(*leaves)
        y.backward(gradient_of(y))
        return [y.detach(), *(leaf.grad for leaf in leaves if leaf is not None)]


def gradient_of(y: Tensor) -> Tensor:
    """Random, and always the same; 1 of a loss."""
    along = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return along.to(y.dtype) if y.dim() else torch.ones_like(y)


def off(fast: Sequence[Tensor], slow: Sequence[Tensor]) -> float:
    """How far apart the furthest two are, relative to the size of the second."""
    pairs = zip(fast, slow, strict=True)
    return max(float((a.double() - b).norm() / b.double().norm()) for a, b in pairs)


def _norm(x: Tensor, weight: Tensor) -> Tensor:
    return x * (x.square().mean(-1, keepdim=True) + EPS).rsqrt() * weight


@dataclass(frozen=True)
class Norm:
    """Stands for nn.RMSNorm, with any tensor as weights; a compiled graph can make one."""

    weight: Tensor
    eps: float = EPS


def _weight(*shape: int) -> Tensor:
    return torch.randn(*shape) * shape[-1] ** -0.5


def mlp_case(n_tokens: int, d: int, d_ff: int, activation: str, gated: bool) -> Case:
    """W_in act, or gated."""

    def fused(
        x: Tensor, norm: Tensor, w_in: Tensor, w_gate: Tensor | None, w_out: Tensor
    ) -> Tensor:
        return trunk.mlp_half(x, Norm(norm), (w_in, w_gate, w_out), activation, TIMES)

    def formula(
        product: Any, x: Tensor, norm: Tensor, w_in: Tensor, w_gate: Tensor | None, w_out: Tensor
    ) -> Tensor:
        act, normed = ACTIVATIONS[activation], _norm(x, norm)
        h = product(normed, w_in.mT)
        h = act(h) if w_gate is None else act(product(normed, w_gate.mT)) * h
        return x + product(h, TIMES * w_out.mT)

    inputs = (
        torch.randn(n_tokens, d),
        1 + 0.1 * torch.randn(d),
        _weight(d_ff, d),
        _weight(d_ff, d) if gated else None,
        _weight(d, d_ff),
    )
    return Case(inputs=inputs, fused=fused, formula=formula)


def head_case(n_tokens: int, d: int, n_entries: int) -> Case:
    """Mean loss; a third of the targets are ignored, where there are more than two."""
    targets = torch.randint(0, n_entries, (n_tokens,))
    targets[2::3] = -100

    def fused(x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        return trunk.head_losses(x, norm, weight, targets, EPS, TIMES)[0]

    def formula(product: Any, x: Tensor, norm: Tensor, weight: Tensor) -> Tensor:
        logits = product(TIMES * _norm(x, norm), weight.mT)
        scored = targets != -100
        own = logits[scored].gather(-1, targets[scored].unsqueeze(-1)).squeeze(-1)
        return (logits[scored].logsumexp(-1) - own).mean()

    inputs = (torch.randn(n_tokens, d), 1 + 0.1 * torch.randn(d), torch.randn(n_entries, d))
    return Case(inputs=inputs, fused=fused, formula=formula)


def attention_case(
    batch: int, seq: int, n_heads: int, n_kv_heads: int, d_head: int, documents: bool = False
) -> Case:
    """documents: each sequence has up to three places where one begins."""
    shape = trunk.AttentionShape(
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        d_head=d_head,
        eps=EPS,
        scale=1.3 * d_head**-0.5,
        times=TIMES,
    )
    d, at = n_heads * d_head, torch.arange(seq)
    angles = torch.outer(at, 10_000.0 ** -(torch.arange(d_head // 2) / (d_head // 2)))
    starts = torch.zeros(batch, seq, dtype=torch.int64)
    if documents:
        places = torch.randint(0, seq, (batch, 3, 1))
        starts = torch.where(at >= places, places, 0).amax(1)

    def fused(x: Tensor, norm: Tensor, w_qkv: Tensor, w_out: Tensor) -> Tensor:
        first = starts.int() if documents else None
        return trunk.attention_half(
            x, norm, w_qkv, w_out, (angles.cos(), angles.sin()), first, shape
        )

    def formula(product: Any, x: Tensor, norm: Tensor, w_qkv: Tensor, w_out: Tensor) -> Tensor:
        heads = product(_norm(x, norm), w_qkv.mT).unflatten(-1, (-1, d_head)).transpose(1, 2)
        queries, keys, values = heads.split((n_heads, n_kv_heads, n_kv_heads), dim=1)
        queries, keys = _turned(queries, angles), _turned(keys, angles)
        keys, values = (t.repeat_interleave(n_heads // n_kv_heads, 1) for t in (keys, values))
        seen = (at <= at[:, None]) & (at >= starts[:, None, :, None])
        scores = product(queries, keys.mT) * shape.scale
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        return x + product(product(weights, values).transpose(1, 2).flatten(2), TIMES * w_out.mT)

    inputs = (
        torch.randn(batch, seq, d),
        1 + 0.1 * torch.randn(d),
        _weight((n_heads + 2 * n_kv_heads) * d_head, d),
        _weight(d, d),
    )
    return Case(inputs=inputs, fused=fused, formula=formula)


def _turned(x: Tensor, angles: Tensor) -> Tensor:
    cos, sin = angles.cos().double(), angles.sin().double()
    left, right = x.chunk(2, -1)
    return torch.cat([left * cos - right * sin, left * sin + right * cos], -1)
