"""One matrix product per expert over tokens sorted by expert."""

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.kernels.checks import check_ends, check_grouped
from experiments.kernels.operators import define, operators

_ALIGNMENT = 16  # bytes; grouped_mm asks it of every row


def grouped_matmul(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """(T, D) x, (E, D, F) weights to (T, F): row t is multiplied by its expert's matrix.

    ends (E,): where each expert's rows of x end; an expert may have none. Under autocast in its
    type, as torch's own products.
    Uses torch's grouped_mm; types and widths that it refuses (float64, rows that are not
    multiples of 16 bytes, a torch without it) take a loop over the experts. Raises TypeError and
    ValueError.
    """
    x, weights = _in_autocast(x), _in_autocast(weights)
    check_grouped(x, weights, ends)
    fits = _fits(x, weights)
    if torch.compiler.is_compiling() and not (fits and x.dtype == torch.bfloat16):
        # of grouped_mm a compiler knows bfloat16 alone, and where rows end it can't know
        return operators.grouped_product(x, weights, ends)
    return _product(x, weights, ends)


def _in_autocast(x: Tensor) -> Tensor:
    """x in the type that autocast gives to products; float64 as it is, as torch leaves it."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x
    return x.to(torch.get_autocast_dtype(device))


def _fits(x: Tensor, weights: Tensor) -> bool:
    """Whether torch's grouped_mm takes them."""
    aligned = all(n * x.element_size() % _ALIGNMENT == 0 for n in weights.shape[1:])
    known = x.dtype == weights.dtype and x.dtype in (torch.float32, torch.bfloat16)
    return hasattr(F, "grouped_mm") and aligned and known


def _product(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    check_ends(ends, len(x))
    if _fits(x, weights):
        return F.grouped_mm(x, weights, offs=ends.to(torch.int32))
    return grouped_matmul_loop(x, weights, ends)


def grouped_matmul_loop(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """The obvious form of grouped_matmul, one product after the other."""
    bounds = pairwise([0, *ends.tolist()])
    parts = [x[a:b] @ w for (a, b), w in zip(bounds, weights.unbind(), strict=True)]
    return torch.cat(parts)


def _gradients(grad: Tensor, x: Tensor, weights: Tensor, ends: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of _product's x and weights."""
    grad = grad.contiguous()
    if _fits(x, weights):
        offsets = ends.to(torch.int32)
        grad_x = F.grouped_mm(grad, weights.transpose(1, 2), offs=offsets)
        return grad_x.contiguous(), F.grouped_mm(x.t(), grad, offs=offsets).contiguous()
    grad_x, grad_weights = x.new_empty(x.shape), weights.new_empty(weights.shape)
    for e, (a, b) in enumerate(pairwise([0, *ends.tolist()])):
        grad_x[a:b] = grad[a:b] @ weights[e].t()
        grad_weights[e] = x[a:b].t() @ grad[a:b]
    return grad_x, grad_weights


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *operators.grouped_gradients(grad, *ctx.saved_tensors), None


define(
    "grouped_product(Tensor x, Tensor weights, Tensor ends) -> Tensor",
    _product,
    lambda x, weights, ends: x.new_empty(x.shape[0], weights.shape[2]),
    (_backward, _keep),
)
define(
    "grouped_gradients(Tensor grad, Tensor x, Tensor weights, Tensor ends) -> (Tensor, Tensor)",
    _gradients,
    lambda grad, x, weights, ends: (x.new_empty(x.shape), weights.new_empty(weights.shape)),
)
