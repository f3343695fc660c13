"""Half-block of a mixture of experts, one operator each way, in C++ (csrc/), for CPUs.

As the trunk's (trunk.py): float32 activations and weights; under bfloat16 autocast the operands of
the experts' products are rounded, and those of the router's never. Results are the same to the bit
for any number of threads: a token sums its experts in their order. Shapes: T tokens, D width, E
experts, F hidden units of one, K experts of a token, C tokens of an expert.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from experiments.kernels.once import once
from experiments.kernels.trunk import find_eps, taken, why_not_mlp, why_not_weights, wide
from experiments.kernels.trunk_passes import ACTIVATIONS, UNIT, load_trunk, rounds_operands
from experiments.kernels.workspace import WORKSPACE


@dataclass(frozen=True, kw_only=True)
class Routing:
    """How tokens and experts find each other.

    n_chosen: K, of every token, or C, of every expert, where experts_choose. softmax: gates over
    the experts; else sigmoid. bias (E,): what is added to gates for tokens' choices alone.
    """

    experts_choose: bool
    softmax: bool
    n_chosen: int
    bias: Tensor


class Experts(NamedTuple):
    """router (E, D); w_in and w_gate, or None, (E, D, F); w_out (E, F, D)."""

    router: Tensor
    w_in: Tensor
    w_gate: Tensor | None
    w_out: Tensor


class Mixed(NamedTuple):
    """y, of x's shape; gates (T, E); and without a gradient: choices (T, K) of experts, or (E, C)
    of tokens where experts choose; chosen, the gates of those, divided by their sum where tokens
    choose more than one; ends (E,) int32: how many pairs the experts up to each one have.
    """

    y: Tensor
    gates: Tensor
    choices: Tensor
    chosen: Tensor
    ends: Tensor


def why_not_mixture(
    linears: tuple[nn.Module | None, ...], experts: tuple[Tensor | None, ...], activation: str
) -> str | None:
    """Why mixture_half can't take these weights, in words; None if it can. linears: the router, and
    those of shared experts, which mlp_half takes.
    """
    found = (why_not_weights(weight) for weight in experts if weight is not None)
    return next((why for why in found if why is not None), None) or why_not_mlp(linears, activation)


def mixture_half(
    x: Tensor,
    norm: nn.RMSNorm,
    experts: Experts,
    routing: Routing,
    activation: str,
    times: float,
    base: Tensor | None = None,
) -> Mixed:
    """base + times * (sum of the experts' outputs of norm(x), times their gates); (..., D) x.

    base: x, if None is given. activation: a name of ACTIVATIONS. Raises TypeError and ValueError
    for tensors of other types and shapes.
    """
    (n_experts, _, d_ff), d = experts.w_in.shape, wide(x.shape[-1])
    n_rows = x.numel() // d if routing.experts_choose else n_experts
    if not 1 <= routing.n_chosen <= n_rows:
        raise ValueError(f"n_chosen={routing.n_chosen} is not from 1 to {n_rows}")
    given = {
        "x": (x, x.shape),
        "norm": (norm.weight, (d,)),
        "router": (experts.router, (n_experts, d)),
        "w_in": (experts.w_in, (n_experts, d, d_ff)),
        "w_gate": (experts.w_gate, (n_experts, d, d_ff)),
        "w_out": (experts.w_out, (n_experts, d_ff, d)),
        "base": (base, x.shape),
        "bias": (routing.bias, (n_experts,)),
    }
    tensors = (t if t is None else taken(name, t, shape) for name, (t, shape) in given.items())
    numbers = (find_eps(norm), times)
    return Mixed(*_Mixture.apply(*tensors, routing, ACTIVATIONS.index(activation), numbers))


class _Mixture(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        router: Tensor,
        w_in: Tensor,
        w_gate: Tensor | None,
        w_out: Tensor,
        base: Tensor | None,
        bias: Tensor,
        routing: Routing,
        activation: int,
        numbers: tuple[float, float],
    ) -> tuple[Tensor, ...]:
        n_experts, d, d_ff = w_in.shape
        n_tokens = x.numel() // d
        n_rows = n_experts if routing.experts_choose else n_tokens
        n_pairs = n_rows * routing.n_chosen
        y, normed, inverse = torch.empty_like(x), torch.empty_like(x), x.new_empty(n_tokens)
        gates, chosen = x.new_empty(n_tokens, n_experts), x.new_empty(n_rows, routing.n_chosen)
        index = torch.empty(chosen.shape, dtype=torch.int64)
        plan = torch.empty(3 * n_pairs + n_experts + n_tokens + 1, dtype=torch.int32)
        shape = (n_pairs, -(-d_ff // UNIT) * UNIT)
        hidden = WORKSPACE.empty(shape, x.dtype)
        gate = None if w_gate is None else WORKSPACE.empty(shape, x.dtype)
        ctx.sizes = (
            *(n_tokens, d, n_experts, d_ff, routing.n_chosen),
            *(routing.experts_choose, routing.softmax, base is not None),
            activation,
        )
        ctx.numbers, ctx.bf16 = numbers, rounds_operands()
        given, kept = (x, norm, router, w_in, w_gate, w_out), (gates, chosen, index, plan)
        tensors = (*given, x if base is None else base, bias, y, normed, inverse, *kept)
        _call("mixture_forward", (*tensors, hidden, gate), ctx)
        ctx.save_for_backward(*given, normed, inverse, *kept, hidden, gate)
        ends = plan[3 * n_pairs : 3 * n_pairs + n_experts]
        ctx.mark_non_differentiable(index, chosen, ends)
        ctx.set_materialize_grads(False)
        return y, gates, index, chosen, ends

    @staticmethod
    @once("the fused mixture, unlike trainer.trunk=eager,")
    def backward(ctx: Any, dy: Tensor | None, dgates: Tensor | None, *_: None) -> Any:
        saved = ctx.saved_tensors
        given, asked = saved[:6], ctx.needs_input_grad
        dy = torch.zeros_like(given[0]) if dy is None else dy.contiguous()
        dx = torch.empty_like(given[0])
        sums = [
            WORKSPACE.empty(w.shape, w.dtype) if w is not None and needed else None
            for w, needed in zip(given[1:], asked[1:6], strict=True)
        ]
        dgates = None if dgates is None else dgates.contiguous()
        _call("mixture_backward", (*saved, dy, dgates, dx, *sums), ctx)
        return dx, *sums, dy if asked[6] else None, None, None, None, None


def _call(name: str, tensors: tuple[Tensor | None, ...], ctx: Any) -> None:
    kernel = load_trunk()
    assert kernel is not None, "asked for without asking whether it can be had"
    kernel.call(name, tensors, ctx.sizes, ctx.numbers, ctx.bf16)
