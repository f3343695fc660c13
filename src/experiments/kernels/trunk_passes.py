"""One pass of a half-block of the trunk, or of its head, by csrc/.

trunk.py differentiates them, and trunk_operators.py offers them to compiled graphs.

Contiguous tensors of the shapes that trunk.py checks. heads: n_heads, n_kv_heads, d_head. numbers:
of attention eps, the scale of scores, times; of the others eps, times. asked: which gradients are
wanted, in the order of the inputs without x, whose gradient always is; None for the others.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from experiments.kernels.cpp import MAX_THREADS, load_cpp
from experiments.kernels.workspace import WORKSPACE

Gradients = tuple[Tensor | None, ...]

UNIT = 16  # widths of the residual stream and of heads are multiples of it (csrc/products.h)
MOST_D_HEAD = 128
ACTIVATIONS = ("gelu", "gelu_tanh", "relu", "silu", "identity")  # csrc/activations.h
_FUNCTIONS = {  # how many tensors each takes, then how many sizes
    "attention_forward": (12, 6),
    "attention_backward": (16, 6),
    "mlp_forward": (9, 4),
    "mlp_backward": (14, 4),
    "head": (9, 3),
    "mixture_forward": (17, 9),  # mixture.py's
    "mixture_backward": (22, 9),
    "queries_forward": (12, 5),  # product_key_layer.py's
    "queries_backward": (21, 9),
    "retrieved_forward": (12, 8),
    "retrieved_backward": (13, 8),
}


class TrunkKernel:
    """Functions of csrc/ for the trunk, at one level of processor."""

    def __init__(self, library: ctypes.CDLL, level: str) -> None:
        self.level = level
        self._functions: dict[str, Any] = {}
        self._rooms: dict[Any, int] = {}  # bytes, by what they depend on
        for name, (n_tensors, n_sizes) in _FUNCTIONS.items():
            function = getattr(library, f"{name}_{level}")
            function.restype = None
            function.argtypes = [
                *[ctypes.c_void_p] * n_tensors,
                *[ctypes.c_int64] * n_sizes,
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
        room = WORKSPACE.empty((n_bytes,), torch.uint8)
        function(*given, *sizes, floats, bf16, room.data_ptr(), None, n_threads)


@lru_cache(maxsize=64)
def _floats(numbers: tuple[float, ...]) -> ctypes.Array[ctypes.c_float]:
    return (ctypes.c_float * len(numbers))(*numbers)


@lru_cache(maxsize=1)
def load_trunk() -> TrunkKernel | None:
    """Kernel of this processor, or None, with a warning, where it can't be built (cpp.py)."""
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


def attention_outputs(x: Tensor, w_qkv: Tensor, heads: Sequence[int]) -> tuple[Tensor, ...]:
    """Room for y, and for what is kept: inverse norms; queries, keys and values; what heads write;
    logarithms of the softmax's sums.
    """
    batch, seq, _ = x.shape
    inverse, qkv = x.new_empty(batch * seq), x.new_empty(batch * seq, w_qkv.shape[0])
    kept = (inverse, qkv, torch.empty_like(x), x.new_empty(batch, heads[0], seq))
    return torch.empty_like(x), *kept


def attention_pass(
    given: tuple[Tensor | None, ...], heads: Sequence[int], numbers: Sequence[float], bf16: bool
) -> tuple[Tensor, ...]:
    """attention_outputs, computed. given: x, norm, w_qkv, w_out, cos, sin, first or None."""
    x, w_qkv = given[0], given[2]
    assert x is not None
    assert w_qkv is not None
    outputs = attention_outputs(x, w_qkv, heads)
    sizes = (*x.shape, *heads)
    _kernel().call("attention_forward", (*given, *outputs), sizes, tuple(numbers), bf16)
    return outputs


def attention_gradients(
    dy: Tensor,
    saved: tuple[Tensor | None, ...],
    heads: Sequence[int],
    numbers: Sequence[float],
    bf16: bool,
    asked: Sequence[bool],
) -> Gradients:
    """Gradients of x, norm, w_qkv and w_out. saved: attention_pass's inputs, and what it kept."""
    x = saved[0]
    assert x is not None
    found = (torch.empty_like(x), *_sums(saved[1:4], asked))
    tensors, sizes = (*saved, dy.contiguous(), *found), (*x.shape, *heads)
    _kernel().call("attention_backward", tensors, sizes, tuple(numbers), bf16)
    return found


def mlp_outputs(x: Tensor, w_in: Tensor, gated: bool) -> tuple[Tensor, ...]:
    """Room for y and for what is kept: inverse norms, hidden units, and their gates."""
    d_ff = w_in.shape[0]
    n_tokens, width = x.numel() // x.shape[-1], (d_ff + UNIT - 1) // UNIT * UNIT
    hidden = [x.new_empty(n_tokens, width) for _ in range(2 if gated else 1)]
    return torch.empty_like(x), x.new_empty(n_tokens), *hidden


def _mlp_sizes(x: Tensor, w_in: Tensor, activation: str) -> tuple[int, ...]:
    d = x.shape[-1]
    return x.numel() // d, d, w_in.shape[0], ACTIVATIONS.index(activation)


def mlp_pass(
    given: tuple[Tensor | None, ...], activation: str, numbers: Sequence[float], bf16: bool
) -> tuple[Tensor, ...]:
    """mlp_outputs, computed. given: x, norm, w_in, w_gate or None, w_out."""
    x, w_in, gated = given[0], given[2], given[3] is not None
    assert x is not None
    assert w_in is not None
    outputs = mlp_outputs(x, w_in, gated)
    tensors = (*given, *outputs) if gated else (*given, *outputs, None)
    sizes = _mlp_sizes(x, w_in, activation)
    _kernel().call("mlp_forward", tensors, sizes, tuple(numbers), bf16)
    return outputs


def mlp_gradients(
    dy: Tensor,
    saved: tuple[Tensor | None, ...],
    activation: str,
    numbers: Sequence[float],
    bf16: bool,
    asked: Sequence[bool],
) -> Gradients:
    """Gradients of x, norm, w_in, w_gate and w_out. saved: mlp_pass's inputs, and what it kept."""
    x, w_in = saved[0], saved[2]
    assert x is not None
    assert w_in is not None
    found = (torch.empty_like(x), *_sums(saved[1:5], asked))
    kept = saved if saved[3] is not None else (*saved, None)
    tensors, sizes = (*kept, dy.contiguous(), *found), _mlp_sizes(x, w_in, activation)
    _kernel().call("mlp_backward", tensors, sizes, tuple(numbers), bf16)
    return found


def head_pass(
    given: tuple[Tensor, ...], numbers: Sequence[float], bf16: bool, asked: Sequence[bool]
) -> tuple[Tensor, Tensor, Gradients]:
    """Mean loss, each one, and the mean's gradients of x, norm and weight, asked of all three.

    given: x, norm, weight, targets. Raises IndexError for a target outside the vocabulary.
    """
    x, norm, weight, targets = given
    n_tokens = targets.numel()
    dx = torch.empty_like(x) if any(asked) else None
    found = (dx, *_sums((norm, weight), asked[1:]))
    losses, result = x.new_empty(n_tokens), torch.zeros(2, dtype=torch.float64)
    sizes = (n_tokens, x.shape[-1], len(weight))
    _kernel().call("head", (*given, losses, result, *found), sizes, tuple(numbers), bf16)
    mean, n_scored = result.tolist()
    if n_scored < 0:
        raise IndexError(f"a target is outside the vocabulary of {len(weight)} entries")
    return x.new_tensor(mean), losses, found


def _sums(weights: tuple[Tensor | None, ...], asked: Sequence[bool]) -> Gradients:
    """Zeros for the gradients that are asked for."""
    pairs = zip(weights, asked, strict=True)
    return tuple(torch.zeros_like(w) if w is not None and needed else None for w, needed in pairs)
