"""One matrix product per expert over tokens sorted by expert."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.config.constraints import KernelName
from experiments.kernels.autocast import in_autocast
from experiments.kernels.checks import check_ends, check_grouped
from experiments.kernels.operators import define, operators
from experiments.kernels.select import resolve_kernel

_ALIGNMENT = 16  # bytes; grouped_mm asks it of every row
_FAST = (9, 10)  # major compute capabilities where torch's grouped_mm has kernels, for bfloat16


def grouped_matmul(x: Tensor, weights: Tensor, ends: Tensor, kernel: KernelName = "auto") -> Tensor:
    """(T, D) x, (E, D, F) weights to (T, F): row t is multiplied by its expert's matrix.

    ends (E,): where each expert's rows of x end; an expert may have none. Under autocast in its
    type, as torch's own products. Raises TypeError and ValueError.

    Where kernel is Triton (auto, on a GPU), the host waits for nothing: by torch's grouped_mm in
    bfloat16 on the cards that it has kernels for, and else by ours (triton_grouped.py). On a CPU by
    grouped_mm. Types and widths that neither takes (float64, or rows that are not multiples of 16
    bytes on a CPU) go by a loop over the experts.
    """
    x, weights = in_autocast(x), in_autocast(weights)
    check_grouped(x, weights, ends)
    if torch.compiler.is_compiling() or _by_triton(x, kernel):
        # of grouped_mm a compiler knows bfloat16 alone, and where rows end it can't know
        return operators.grouped_product(x, weights, ends, kernel)
    return _product(x, weights, ends, kernel)


def _by_triton(x: Tensor, kernel: str) -> bool:
    found = resolve_kernel(kernel, x.device.type, x.dtype)
    return found is not None and found.name == "triton"


def _by_torch(x: Tensor, weights: Tensor, kernel: str) -> bool:
    """Whether grouped_mm takes them, and without waiting for the GPU."""
    aligned = all(n * x.element_size() % _ALIGNMENT == 0 for n in weights.shape[1:])
    known = x.dtype == weights.dtype and x.dtype in (torch.float32, torch.bfloat16)
    if not (hasattr(F, "grouped_mm") and aligned and known):
        return False
    if not _by_triton(x, kernel):
        return True
    fast = x.device.type == "cuda" and torch.cuda.get_device_capability(x.device)[0] in _FAST
    return fast and x.dtype == torch.bfloat16


def _product(x: Tensor, weights: Tensor, ends: Tensor, kernel: str) -> Tensor:
    check_ends(ends, len(x))
    if _by_torch(x, weights, kernel):
        return F.grouped_mm(x, weights, offs=ends.to(torch.int32))
    if _by_triton(x, kernel):
        from experiments.kernels.triton_grouped import product

        return product(x, weights, ends)
    return grouped_matmul_loop(x, weights, ends)


def grouped_matmul_loop(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """Obvious form of grouped_matmul, one product after the other."""
    bounds = pairwise([0, *ends.tolist()])
    parts = [x[a:b] @ w for (a, b), w in zip(bounds, weights.unbind(), strict=True)]
    return torch.cat(parts)


def _gradients(
    grad: Tensor, x: Tensor, weights: Tensor, ends: Tensor, kernel: str
) -> tuple[Tensor, Tensor]:
    """Gradients of _product's x and weights."""
    grad = grad.contiguous()
    if _by_torch(x, weights, kernel):
        offsets = ends.to(torch.int32)
        grad_x = F.grouped_mm(grad, weights.transpose(1, 2), offs=offsets)
        return grad_x.contiguous(), F.grouped_mm(x.t(), grad, offs=offsets).contiguous()
    if _by_triton(x, kernel):
        from experiments.kernels.triton_grouped import product, weights_gradient

        return product(grad, weights.transpose(1, 2), ends), weights_gradient(x, grad, ends)
    grad_x, grad_weights = x.new_empty(x.shape), weights.new_empty(weights.shape)
    for e, (a, b) in enumerate(pairwise([0, *ends.tolist()])):
        grad_x[a:b] = grad[a:b] @ weights[e].t()
        grad_weights[e] = x[a:b].t() @ grad[a:b]
    return grad_x, grad_weights


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    *tensors, ctx.kernel = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *operators.grouped_gradients(grad, *ctx.saved_tensors, ctx.kernel), None, None


define(
    "grouped_product(Tensor x, Tensor weights, Tensor ends, str kernel) -> Tensor",
    _product,
    lambda x, weights, ends, kernel: x.new_empty(x.shape[0], weights.shape[2]),
    (_backward, _keep),
)
define(
    "grouped_gradients(Tensor grad, Tensor x, Tensor weights, Tensor ends, str kernel) "
    "-> (Tensor, Tensor)",
    _gradients,
    lambda grad, x, weights, ends, kernel: (
        x.new_empty(x.shape),
        weights.new_empty(weights.shape),
    ),
)
