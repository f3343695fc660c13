"""The trunk's half-blocks and its head, one operator each way, in C++ (csrc/), for CPUs.

    attention_half(x, ...) -> y     x + times * W_out attend(rotate(W_qkv norm(x)))
    mlp_half(x, ...) -> y           x + times * W_out act(W_in norm(x)), or gated
    head_losses(x, ...)             cross entropies of the logits W (times * norm(x))

float32 activations and weights. Under bfloat16 autocast the operands of products are rounded to
bfloat16; sums, and what is between products, stay float32. What the backward pass doesn't read is
not kept, and logits are never whole. Results are the same to the bit for any number of threads.
Suffixes: T tokens, D width, F hidden units, V entries of the vocabulary.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from experiments.kernels.cpp import MAX_THREADS, load_cpp

UNIT = 16  # widths of the residual stream and of heads are multiples of it (csrc/products.h)
MOST_D_HEAD = 128
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "identity")  # csrc/activations.h
_N_TENSORS = {  # that each function takes, before sizes
    "attention_forward": 12,
    "attention_backward": 16,
    "mlp_forward": 9,
    "mlp_backward": 14,
    "head": 9,
    "mixture_forward": 17,  # mixture.py's
    "mixture_backward": 22,
}
_N_SIZES = {"attention": 6, "mlp": 4, "head": 3, "mixture": 9}


class TrunkKernel:
    """The functions of csrc/ for the trunk, at one level of processor."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        self.level = level
        self._functions: dict[str, Any] = {}
        self._rooms: dict[Any, int] = {}  # bytes, by what they depend on
        for name, n_tensors in _N_TENSORS.items():
            function = getattr(library, f"{name}_{level}")
            function.restype = None
            function.argtypes = [
                *[ctypes.c_void_p] * n_tensors,
                *[ctypes.c_int64] * _N_SIZES[name.partition("_")[0]],
                *(ctypes.c_void_p, ctypes.c_int64),  # numbers, whether operands are bfloat16
                *(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64),  # room, its bytes, threads
            ]
            self._functions[name] = function

    def call(
        self,
        name: str,
        tensors: tuple[Tensor | None, ...],
        sizes: tuple[int, ...],
        numbers: tuple[float, ...],
        bf16: bool,
    ) -> None:
        """Contiguous tensors go as pointers, None as a null one; with them goes room to work in."""
        function, n_threads = self._functions[name], min(torch.get_num_threads(), MAX_THREADS)
        given = [None if t is None else t.data_ptr() for t in tensors]
        floats = _floats(numbers)
        key = (name, tuple(t is None for t in tensors), sizes, bf16, n_threads)
        if (n_bytes := self._rooms.get(key)) is None:
            needed = ctypes.c_int64()
            function(*given, *sizes, floats, bf16, None, ctypes.addressof(needed), n_threads)
            n_bytes = self._rooms[key] = needed.value
        room = torch.empty(n_bytes, dtype=torch.uint8)
        function(*given, *sizes, floats, bf16, room.data_ptr(), None, n_threads)


@lru_cache(maxsize=64)
def _floats(numbers: tuple[float, ...]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(numbers))(*numbers)


@lru_cache(maxsize=1)
def load_trunk() -> TrunkKernel | None:
    """The kernel of this processor, or None, with a warning, where it can't be built (cpp.py)."""
    cpp = load_cpp()
    return None if cpp is None else TrunkKernel(cpp.library, cpp.level)


def _kernel() -> TrunkKernel:
    kernel = load_trunk()
    assert kernel is not None, "asked for without asking whether it can be had"
    return kernel


def rounds_operands() -> bool:
    """Whether operands of products are rounded to bfloat16: as autocast says."""
    cpu = torch.is_autocast_enabled("cpu")
    return cpu and torch.get_autocast_dtype("cpu") == torch.bfloat16


def eps_of(norm: nn.RMSNorm) -> float:
    """What torch adds to the mean square of float32 activations."""
    return torch.finfo(torch.float32).eps if norm.eps is None else norm.eps


def why_not_linear(linear: nn.Module) -> str | None:
    """Why the operators here can't take a linear map's place, in words; None if they can."""
    if type(linear) is not nn.Linear or linear.bias is not None:
        return f"{type(linear).__name__} is not a plain linear map"
    return why_not_weights(linear.weight)


def why_not_weights(weight: Tensor) -> str | None:
    """The same of a parameter."""
    if weight.dtype == torch.float32 and weight.device.type in ("cpu", "meta"):
        return None  # of a model that is planned, meta
    return f"weights are {weight.dtype} on {weight.device}, not float32 on a CPU"


def why_not_mlp(linears: tuple[nn.Module | None, ...], activation: str) -> str | None:
    """The same of mlp_half."""
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
        _taken("x", x, (batch, seq, shape.n_heads * shape.d_head)),
        _taken("norm", norm, (d,)),
        _taken("w_qkv", w_qkv, (n_rows, d)),
        _taken("w_out", w_out, (d, d)),
        _taken("cos", angles[0], (seq, half)),
        _taken("sin", angles[1], (seq, half)),
        None if first is None else _taken("first", first, (batch, seq), torch.int32),
    )
    return _Attention.apply(*given, shape)


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
        _taken("x", x, (*x.shape[:-1], _wide(d))),
        _taken("norm", norm.weight, (d,)),
        _taken("w_in", w_in, (d_ff, d)),
        None if w_gate is None else _taken("w_gate", w_gate, (d_ff, d)),
        _taken("w_out", w_out, (d, d_ff)),
    )
    return _Mlp.apply(*given, activation, eps_of(norm), times)


def head_losses(
    x: Tensor, norm: Tensor, weight: Tensor, targets: Tensor, eps: float, times: float
) -> tuple[Tensor, Tensor]:
    """The mean cross entropy in nats, (), and each one, which has no gradient, (T,).

    (..., D) x with T rows, norm (D,), weight (V, D), targets of T int64; those of -100 count
    nowhere and have a loss of 0; the mean of none is NaN. The gradient is computed with the loss,
    if there is to be one, and serves one backward pass. Raises IndexError for a target outside the
    vocabulary, TypeError and ValueError for tensors of other types and shapes.
    """
    d = _wide(x.shape[-1])
    given = (
        _taken("x", x, x.shape),
        _taken("norm", norm, (d,)),
        _taken("weight", weight, (len(weight), d)),
        _taken("targets", targets, (x.numel() // d,), torch.int64),
    )
    return _Head.apply(*given, eps, times, torch.is_grad_enabled())


def _taken(
    name: str, tensor: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32
) -> Tensor:
    """The tensor as C++ reads it, contiguous, if it is one of this type and shape."""
    if tensor.dtype != dtype or tensor.device.type != "cpu":
        raise TypeError(f"{name} is {tensor.dtype} on {tensor.device}, not {dtype} on a CPU")
    if tensor.shape != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}, not {tuple(shape)}")
    return tensor.contiguous()


def _wide(d_model: int) -> int:
    """The width, if it is one that is taken."""
    if d_model % UNIT:
        raise ValueError(f"a width of {d_model} is no multiple of {UNIT}")
    return d_model


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        w_qkv: Tensor,
        w_out: Tensor,
        cos: Tensor,
        sin: Tensor,
        first: Tensor | None,
        shape: AttentionShape,
    ) -> Tensor:
        batch, seq, d = x.shape
        y = torch.empty_like(x)
        inverse, qkv = x.new_empty(batch * seq), x.new_empty(batch * seq, len(w_qkv))
        out, log_sums = torch.empty_like(x), x.new_empty(batch, shape.n_heads, seq)
        sizes = (batch, seq, d, shape.n_heads, shape.n_kv_heads, shape.d_head)
        numbers = (shape.eps, shape.scale, shape.times)
        given = (x, norm, w_qkv, w_out, cos, sin, first)
        kept = (inverse, qkv, out, log_sums)
        ctx.bf16 = rounds_operands()
        _kernel().call("attention_forward", (*given, y, *kept), sizes, numbers, ctx.bf16)
        ctx.save_for_backward(*given, *kept)
        ctx.sizes, ctx.numbers = sizes, numbers
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, asked = ctx.saved_tensors, ctx.needs_input_grad[1:4]
        dx, sums = torch.empty_like(saved[0]), _sums(saved[1:4], asked)
        tensors = (*saved, dy.contiguous(), dx, *sums)
        _kernel().call("attention_backward", tensors, ctx.sizes, ctx.numbers, ctx.bf16)
        return dx, *sums, None, None, None, None


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        w_in: Tensor,
        w_gate: Tensor | None,
        w_out: Tensor,
        activation: str,
        eps: float,
        times: float,
    ) -> Tensor:
        d, n_tokens = x.shape[-1], x.numel() // x.shape[-1]
        y, inverse = torch.empty_like(x), x.new_empty(n_tokens)
        hidden = x.new_empty(n_tokens, -(-len(w_in) // UNIT) * UNIT)
        gate = None if w_gate is None else torch.empty_like(hidden)
        sizes = (n_tokens, d, len(w_in), ACTIVATIONS.index(activation))
        given, kept = (x, norm, w_in, w_gate, w_out), (inverse, hidden, gate)
        ctx.bf16 = rounds_operands()
        _kernel().call("mlp_forward", (*given, y, *kept), sizes, (eps, times), ctx.bf16)
        ctx.save_for_backward(*given, *kept)
        ctx.sizes, ctx.numbers = sizes, (eps, times)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        saved, asked = ctx.saved_tensors, ctx.needs_input_grad[1:5]
        dx, sums = torch.empty_like(saved[0]), _sums(saved[1:5], asked)
        tensors = (*saved, dy.contiguous(), dx, *sums)
        _kernel().call("mlp_backward", tensors, ctx.sizes, ctx.numbers, ctx.bf16)
        return dx, *sums, None, None, None


class _Head(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        norm: Tensor,
        weight: Tensor,
        targets: Tensor,
        eps: float,
        times: float,
        differentiated: bool,
    ) -> tuple[Tensor, Tensor]:
        n_tokens = targets.numel()
        asked = [differentiated and needed for needed in ctx.needs_input_grad[:3]]
        dx = torch.empty_like(x) if any(asked) else None
        sums = _sums((norm, weight), asked[1:])
        losses, result = x.new_empty(n_tokens), torch.zeros(2, dtype=torch.float64)
        tensors = (x, norm, weight, targets, losses, result, dx, *sums)
        sizes = (n_tokens, x.shape[-1], len(weight))
        _kernel().call("head", tensors, sizes, (eps, times), rounds_operands())
        mean, n_scored = result.tolist()
        if n_scored < 0:
            raise IndexError(f"a target is outside the vocabulary of {len(weight)} entries")
        ctx.gradients = (dx, *sums)
        ctx.mark_non_differentiable(losses)
        ctx.set_materialize_grads(False)
        return x.new_tensor(mean), losses

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError(
                "the head's gradients serve one backward pass: compute the losses again for another"
            )
        gradients, ctx.gradients = ctx.gradients, None
        if grad is None:
            return (None,) * 7
        times = float(grad)
        if times != 1:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(times)
        return *gradients, None, None, None, None


def _sums(weights: tuple[Tensor | None, ...], asked: Sequence[bool]) -> list[Tensor | None]:
    """Zeros for the gradients that are asked for."""
    pairs = zip(weights, asked, strict=True)
    return [torch.zeros_like(w) if w is not None and needed else None for w, needed in pairs]
