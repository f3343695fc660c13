"""Trunk's half-blocks and its head as operators, beside those of operators.py: what a compiled
graph calls.

    attention_half(x, norm, w_qkv, w_out, cos, sin, first, heads, numbers, bf16) -> y, and 4 kept
    mlp_half(x, norm, w_in, w_gate, w_out, activation, numbers, bf16) -> y, and 2 or 3 kept
    head_losses(x, norm, weight, targets, numbers, bf16, asked) -> mean, losses, 3 gradients

Differentiable once; arguments are those of trunk_passes.py. A gradient that is not asked for is an
empty tensor. Eager code does not come here: trunk.py's functions save the dispatcher's time.
"""

from typing import Any

import torch
from torch import Tensor

from experiments.kernels.operators import define
from experiments.kernels.trunk_passes import (
    Gradients,
    attention_gradients,
    attention_outputs,
    attention_pass,
    head_pass,
    mlp_gradients,
    mlp_outputs,
    mlp_pass,
)

operators = torch.ops.experiments


def _whole(x: Tensor, gradients: Gradients) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(0) if g is None else g for g in gradients)


def _asked(gradients: tuple[Tensor, ...], asked: tuple[bool, ...]) -> Gradients:
    pairs = zip(gradients, asked, strict=True)
    return tuple(g if needed else None for g, needed in pairs)


def _fake_gradients(tensors: tuple[Tensor | None, ...], asked: list[bool]) -> tuple[Tensor, ...]:
    """As the passes return them: x's, and zeros of those asked for."""
    x = tensors[0]
    assert x is not None
    found = [torch.empty_like(x)]
    for tensor, needed in zip(tensors[1:], asked, strict=True):
        if tensor is None or not needed:
            found.append(x.new_empty(0))
        else:
            found.append(torch.empty_like(tensor))
    return tuple(found)


def _attention(*given: Any) -> tuple[Tensor, ...]:
    *tensors, heads, numbers, bf16 = given
    return attention_pass(tuple(tensors), heads, numbers, bf16)


def _attention_gradients(dy: Tensor, *given: Any) -> tuple[Tensor, ...]:
    *tensors, kept, heads, numbers, bf16, asked = given
    saved = (*tensors, *kept)
    return _whole(dy, attention_gradients(dy, saved, heads, numbers, bf16, asked))


def _attention_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    *tensors, ctx.heads, ctx.numbers, ctx.bf16 = inputs
    _keep(ctx, tensors, output[1:])


def _keep(ctx: Any, tensors: list[Tensor | None], kept: tuple[Tensor, ...]) -> None:
    ctx.save_for_backward(*tensors, *kept)
    ctx.mark_non_differentiable(*kept)
    ctx.set_materialize_grads(False)


def _attention_backward(ctx: Any, dy: Tensor | None, *_: None) -> Gradients:
    if dy is None:
        return (None,) * 10
    saved, asked = ctx.saved_tensors, ctx.needs_input_grad[:4]
    how = (ctx.heads, ctx.numbers, ctx.bf16, asked[1:])
    found = operators.attention_half_backward(dy, *saved[:7], saved[7:], *how)
    return *_asked(found, asked), *(None,) * 6


def _mlp(*given: Any) -> list[Tensor]:
    *tensors, activation, numbers, bf16 = given
    return list(mlp_pass(tuple(tensors), activation, numbers, bf16))


def _mlp_gradients(dy: Tensor, *given: Any) -> tuple[Tensor, ...]:
    *tensors, kept, activation, numbers, bf16, asked = given
    saved = (*tensors, *kept)
    return _whole(dy, mlp_gradients(dy, saved, activation, numbers, bf16, asked))


def _mlp_context(ctx: Any, inputs: tuple[Any, ...], output: list[Tensor]) -> None:
    *tensors, ctx.activation, ctx.numbers, ctx.bf16 = inputs
    _keep(ctx, tensors, tuple(output[1:]))


def _mlp_backward(ctx: Any, grads: list[Tensor | None]) -> Gradients:
    if (dy := grads[0]) is None:
        return (None,) * 8
    saved, asked = ctx.saved_tensors, ctx.needs_input_grad[:5]
    how = (ctx.activation, ctx.numbers, ctx.bf16, asked[1:])
    found = operators.mlp_half_backward(dy, *saved[:5], saved[5:], *how)
    return *_asked(found, asked), None, None, None


def _head(*given: Any) -> tuple[Tensor, ...]:
    *tensors, numbers, bf16, asked = given
    mean, losses, gradients = head_pass(tuple(tensors), numbers, bf16, asked)
    return mean, losses, *_whole(losses, gradients)


def _fake_head(
    x: Tensor,
    norm: Tensor,
    weight: Tensor,
    targets: Tensor,
    numbers: list[float],
    bf16: bool,
    asked: list[bool],
) -> tuple[Tensor, ...]:
    dx, *others = _fake_gradients((x, norm, weight), asked[1:])
    dx = dx if any(asked) else x.new_empty(0)
    return x.new_empty(()), x.new_empty(targets.shape), dx, *others


def _head_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    _, *others = output
    ctx.save_for_backward(*others[1:])
    ctx.mark_non_differentiable(*others)
    ctx.set_materialize_grads(False)


def _head_backward(ctx: Any, grad: Tensor | None, *_: None) -> Gradients:
    if grad is None:
        return (None,) * 7
    found = tuple(grad * gradient for gradient in ctx.saved_tensors)
    return *_asked(found, ctx.needs_input_grad[:3]), *(None,) * 4


_ATTENTION = (
    "Tensor x, Tensor norm, Tensor w_qkv, Tensor w_out, Tensor cos, Tensor sin, Tensor? first"
)
_MLP = "Tensor x, Tensor norm, Tensor w_in, Tensor? w_gate, Tensor w_out"
_HOW = "float[] numbers, bool bf16"

define(
    f"attention_half({_ATTENTION}, int[] heads, {_HOW}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _attention,
    lambda *given: attention_outputs(given[0], given[2], given[7]),
    (_attention_backward, _attention_context),
)
define(
    f"attention_half_backward(Tensor dy, {_ATTENTION}, Tensor[] kept, int[] heads, {_HOW}, "
    "bool[] asked) -> (Tensor, Tensor, Tensor, Tensor)",
    _attention_gradients,
    lambda dy, *given: _fake_gradients(given[:4], given[-1]),
)
define(
    f"mlp_half({_MLP}, str activation, {_HOW}) -> Tensor[]",
    _mlp,
    lambda *given: list(mlp_outputs(given[0], given[2], given[3] is not None)),
    (_mlp_backward, _mlp_context),
)
define(
    f"mlp_half_backward(Tensor dy, {_MLP}, Tensor[] kept, str activation, {_HOW}, bool[] asked) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _mlp_gradients,
    lambda dy, *given: _fake_gradients(given[:5], given[-1]),
)
define(
    f"head_losses(Tensor x, Tensor norm, Tensor weight, Tensor targets, {_HOW}, bool[] asked) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    _head,
    _fake_head,
    (_head_backward, _head_context),
)
