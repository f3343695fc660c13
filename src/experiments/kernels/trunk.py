"""Trunk's half-blocks and its head, one operator each way, in C++ (csrc/), for CPUs.

    attention_half(x, ...) -> y     x + times * W_out attend(rotate(W_qkv norm(x)))
    mlp_half(x, ...) -> y           x + times * W_out act(W_in norm(x)), or gated
    head_losses(x, ...)             cross entropies of the logits W (times * norm(x))

float32 activations and weights. Under bfloat16 autocast the operands of products are rounded to
bfloat16; sums, and what is between products, stay float32. What the backward pass doesn't read is
not kept, and logits are never whole. Results are the same to the bit for any number of threads.
Eager code calls autograd functions, and compiled graphs the operators (trunk_operators.py).
Suffixes: T tokens, D width, F hidden units, V entries of the vocabulary.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.kernels.once import once
from experiments.kernels.trunk_operators import operators
from experiments.kernels.trunk_passes import (
    ACTIVATIONS,
    MOST_D_HEAD,
    UNIT,
    Gradients,
    attention_gradients,
    attention_pass,
    head_pass,
    mlp_gradients,
    mlp_pass,
    rounds_operands,
)


def find_eps(norm: nn.RMSNorm) -> float:
    """Number that torch adds to the mean square of float32 activations."""
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


def why_not_linear(linear: nn.Module) -> str | None:
    """Why the operators here can't take a linear map's place, in words; None if they can."""
    if type(linear) is not nn.Linear or linear.bias is not None:
        return f"{type(linear).__name__} is not a plain linear map"
    return why_not_weights(linear.weight)


def why_not_weights(weight: Tensor) -> str | None:
    """Same of a parameter."""
    if weight.dtype == torch.float32 and weight.device.type in ("cpu", "meta"):
        return None  # of a model that is planned, meta
    return f"weights are {weight.dtype} on {weight.device}, not float32 on a CPU"


def why_not_mlp(linears: tuple[nn.Module | None, ...], activation: str) -> str | None:
    """Same of mlp_half."""
    if activation not in ACTIVATIONS:
        return f"activation={activation} has no fused form"
    found = (why_not_linear(linear) for linear in linears if linear is not None)
    return next((why for why in found if why is not None), None)


@dataclass(frozen=True, kw_only=True)
class AttentionShape:
    """Heads of an attention half-block, and its numbers.

    eps: of the norm. scale: of scores. times: of what is added to the residual stream.
    """

    n_heads: int
    n_kv_heads: int
    d_head: int
    eps: float
    scale: float
    times: float


def attention_half(
    x: Tensor,
    norm: Tensor,
    w_qkv: Tensor,
    w_out: Tensor,
    angles: tuple[Tensor, Tensor],
    first: Tensor | None,
    shape: AttentionShape,
) -> Tensor:
    """(batch, seq, D) x to the same; causal.

    norm (D,) are RMS norm's weights; w_qkv ((n_heads + 2 n_kv_heads) d_head, D), w_out (D, D);
    angles: cos and sin, each (seq, d_head / 2). first (batch, seq) int32: the first position that
    each one sees, none later than itself; None: all see from 0. Raises TypeError and ValueError
    for tensors of other types and shapes.
    """
    (batch, seq, d), half = x.shape, shape.d_head // 2
    n_rows = (shape.n_heads + 2 * shape.n_kv_heads) * shape.d_head
    if shape.d_head % UNIT or shape.d_head > MOST_D_HEAD or shape.n_heads % shape.n_kv_heads:
        raise ValueError(f"{shape}: d_head is a multiple of {UNIT}, and kv heads divide heads")
    given = (
        taken("x", x, (batch, seq, shape.n_heads * shape.d_head)),
        taken("norm", norm, (d,)),
        taken("w_qkv", w_qkv, (n_rows, d)),
        taken("w_out", w_out, (d, d)),
        taken("cos", angles[0], (seq, half)),
        taken("sin", angles[1], (seq, half)),
        None if first is None else taken("first", first, (batch, seq), torch.int32),
    )
    heads = (shape.n_heads, shape.n_kv_heads, shape.d_head)
    numbers = (shape.eps, shape.scale, shape.times)
    if torch.compiler.is_compiling():
        return operators.attention_half(*given, heads, numbers, rounds_operands())[0]
    return _Attention.apply(*given, heads, numbers)


def mlp_half(
    x: Tensor,
    norm: nn.RMSNorm,
    weights: tuple[Tensor, Tensor | None, Tensor],
    activation: str,
    times: float,
) -> Tensor:
    """(..., D) x to the same. weights: W_in (F, D), W_gate (F, D) or None, W_out (D, F);
    activation: a name of ACTIVATIONS; times as AttentionShape has it. Raises TypeError and
    ValueError for tensors of other types and shapes.
    """
    (w_in, w_gate, w_out), d = weights, x.shape[-1]
    d_ff = len(w_in)
    given = (
        taken("x", x, (*x.shape[:-1], wide(d))),
        taken("norm", norm.weight, (d,)),
        taken("w_in", w_in, (d_ff, d)),
        None if w_gate is None else taken("w_gate", w_gate, (d_ff, d)),
        taken("w_out", w_out, (d, d_ff)),
    )
    numbers = (find_eps(norm), times)
    if torch.compiler.is_compiling():
        return operators.mlp_half(*given, activation, numbers, rounds_operands())[0]
    return _Mlp.apply(*given, activation, numbers)


def head_losses(
    x: Tensor, norm: Tensor, weight: Tensor, targets: Tensor, eps: float, times: float
) -> tuple[Tensor, Tensor]:
    """Mean cross entropy in nats, (), and each one, which has no gradient, (T,).

    (..., D) x with T rows, norm (D,), weight (V, D), targets of T int64; those of -100 count
    nowhere and have a loss of 0; the mean of none is NaN. The gradient is computed with the loss,
    if there is to be one, and serves one backward pass. Raises IndexError for a target outside the
    vocabulary, TypeError and ValueError for tensors of other types and shapes.
    """
    d = wide(x.shape[-1])
    given = (
        taken("x", x, x.shape),
        taken("norm", norm, (d,)),
        taken("weight", weight, (len(weight), d)),
        taken("targets", targets, (x.numel() // d,), torch.int64),
    )
    differentiated = torch.is_grad_enabled()
    if torch.compiler.is_compiling():
        asked = [differentiated and t.requires_grad for t in given[:3]]
        mean, each, *_ = operators.head_losses(*given, (eps, times), rounds_operands(), asked)
        return mean, each
    return _Head.apply(*given, (eps, times), differentiated)


def taken(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """Tensor as C++ reads it, contiguous, if it is one of this type and shape."""
    if tensor.dtype != dtype or tensor.device.type != "cpu":
        raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}, not {dtype} on a CPU")
    if tensor.shape != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}")
    return tensor.contiguous()


def wide(d_model: int) -> int:
    """Width, if it is one that is taken."""
    if d_model % UNIT:
        raise ValueError(f"a width of {d_model} is no multiple of {UNIT}")
    return d_model


_once = once("the fused trunk, unlike trainer.trunk=eager,")


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *given, ctx.heads, ctx.numbers = inputs
        ctx.bf16 = rounds_operands()
        y, *kept = attention_pass(tuple(given), ctx.heads, ctx.numbers, ctx.bf16)
        ctx.save_for_backward(*given, *kept)
        return y

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> Gradients:
        saved, asked = ctx.saved_tensors, ctx.needs_input_grad[1:4]
        found = attention_gradients(dy, saved, ctx.heads, ctx.numbers, ctx.bf16, asked)
        return *found, None, None, None, None, None


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Tensor:
        *given, ctx.activation, ctx.numbers = inputs
        ctx.bf16 = rounds_operands()
        y, *kept = mlp_pass(tuple(given), ctx.activation, ctx.numbers, ctx.bf16)
        ctx.save_for_backward(*given, *kept)
        return y

    @staticmethod
    @_once
    def backward(ctx: Any, dy: Tensor) -> Gradients:
        saved, asked = ctx.saved_tensors, ctx.needs_input_grad[1:5]
        found = mlp_gradients(dy, saved, ctx.activation, ctx.numbers, ctx.bf16, asked)
        return *found, None, None


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> tuple[Tensor, Tensor]:
        *given, numbers, differentiated = inputs
        asked = [differentiated and needed for needed in ctx.needs_input_grad[:3]]
        mean, losses, ctx.gradients = head_pass(tuple(given), numbers, rounds_operands(), asked)
        ctx.mark_non_differentiable(losses)
        ctx.set_materialize_grads(False)
        return mean, losses

    @staticmethod
    @_once
    def backward(ctx: Any, grad: Tensor | None, _: None) -> Gradients:
        if ctx.gradients is None:
            raise RuntimeError(
                "the head's gradients serve one backward pass: compute the losses again for another"
            )
        gradients, ctx.gradients = ctx.gradients, None
        if grad is None:
            return (None,) * 6
        times = float(grad)
        if times != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(times)
        return *gradients, None, None, None
