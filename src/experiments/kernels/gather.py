"""Two primitives of an expert table: dot products with its rows, weighted sums of its rows.

    gather_dot(x_TD, table_ND, idx_TJ) -> TJ    x_t . table[idx_tj]
    gather_sum(table_ND, idx_TJ, w_TJ) -> TD    sum_j w_tj table[idx_tj]

T tokens, J retrieved rows a token, D width, N rows. PEER is one of each with an activation
between; PKM is the second alone. `reference.py` holds the obvious forms, which materialise
(T, J, D). These here never do: each is an embedding bag, forward and backward, and the
table's dense gradient is a bag over the tokens, sorted by expert (stable, so the sums have
one order and the result is repeatable to the bit).
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def _bag(table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
    """Rows of `weights` and `idx` (B, J) are bags; returns (B, D)."""
    return F.embedding_bag(idx, table, per_sample_weights=weights, mode="sum")


def _bag_dot(x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
    """(T, J) dot products of x_t with table[idx_tj].

    The operator is the one torch's own embedding_bag uses to differentiate its weights. It is
    private, so a torch without it takes the obvious form, a token block at a time.
    """
    n_tokens, n_rows = idx.shape
    operator = getattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None)
    if operator is None or x.device.type != "cpu":
        block = max(1, 2**24 // max(1, n_rows * x.shape[1]))
        parts = [
            torch.einsum("td,tjd->tj", x[i : i + block], table[idx[i : i + block]])
            for i in range(0, n_tokens, block)
        ]
        return torch.cat(parts) if parts else x.new_zeros(idx.shape)
    offsets = torch.arange(0, n_tokens * n_rows, n_rows, device=idx.device)
    token = torch.repeat_interleave(torch.arange(n_tokens, device=idx.device), n_rows)
    flat = idx.reshape(-1)
    return operator(x.contiguous(), table, flat, offsets, token, 0, -1).view(idx.shape)


def _table_gradient(n_rows: int, values: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
    """The dense (N, D) sum over (t, j) of weights_tj values_t into row idx_tj."""
    flat = idx.reshape(-1)
    order = _stable_order(flat, n_rows)
    tokens = order // idx.shape[1]
    counts = torch.bincount(flat, minlength=n_rows)
    offsets = torch.cumsum(counts, 0) - counts
    return F.embedding_bag(
        tokens,
        values,
        offsets,
        per_sample_weights=weights.reshape(-1)[order],
        mode="sum",
    )


def _stable_order(flat: Tensor, n_rows: int) -> Tensor:
    """Positions of flat sorted by expert, equal ones in their order.

    numpy sorts 16-bit keys by radix, several times faster than torch's comparison sort.
    """
    if flat.device.type == "cpu" and n_rows <= 2**16:
        return torch.from_numpy(np.argsort(flat.numpy().astype(np.uint16), kind="stable"))
    return torch.argsort(flat, stable=True)


class _GatherDot(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
        ctx.save_for_backward(x, table, idx)
        return _bag_dot(x, table, idx)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        x, table, idx = ctx.saved_tensors
        grad = grad.contiguous()
        return (
            _bag(table, idx, grad),
            _table_gradient(table.shape[0], x.contiguous(), idx, grad),
            None,
        )


class _GatherSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
        ctx.save_for_backward(table, idx, weights)
        return _bag(table, idx, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, Tensor]:
        table, idx, weights = ctx.saved_tensors
        grad = grad.contiguous()
        return (
            _table_gradient(table.shape[0], grad, idx, weights),
            None,
            _bag_dot(grad, table, idx),
        )


def gather_dot(x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
    """(T, D) x, (N, D) table, (T, J) int64 idx to the (T, J) products x_t . table[idx_tj]."""
    return _GatherDot.apply(*_one_dtype(x, table), idx)


def gather_sum(table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
    """(N, D) table, (T, J) int64 idx and weights to the (T, D) sums of weighted rows."""
    weights, table = _one_dtype(weights, table)
    return _GatherSum.apply(table, idx, weights)


def _one_dtype(activation: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Under autocast activations come in bf16 and tables stay fp32: the table's type wins."""
    return activation.to(table.dtype), table
