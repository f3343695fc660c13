"""Kernels in plain torch, for any device: nothing to compile, nothing of (T, J, D) is held.

Gathers are embedding bags, and so are gradients: a table's gradient is a bag over the tokens,
sorted by row. The search takes tokens a block at a time.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from experiments.kernels.interface import AdamWStep, Segments
from experiments.kernels.product_keys import candidate_pairs, scores_of_halves
from experiments.kernels.workspace import WORKSPACE

_BLOCK = 2**22  # elements of a temporary, at most: 16 MB in float32


class TorchKernel:
    """Kernel `torch`."""

    name, variant, segment_dtype = "torch", "", torch.int64

    def dot(self, x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
        """By the operator with which torch's own embedding_bag differentiates its weights.

        It is private, so a torch without it takes the obvious form, a block of tokens at a time;
        so do GPUs, whose version holds (P, D), and types it does not take.
        """
        operator = getattr(torch.ops.aten, "_embedding_bag_per_sample_weights_backward", None)
        fits = x.device.type == "cpu" and x.dtype == table.dtype and idx.numel() > 0
        if operator is None or not fits:
            return _dot_in_blocks(x, table, idx)
        n_tokens, n_columns = idx.shape
        offsets = torch.arange(0, n_tokens * n_columns, n_columns)
        token = torch.repeat_interleave(torch.arange(n_tokens), n_columns)
        return operator(x, table, idx.view(-1), offsets, token, 0, -1).view(idx.shape)

    def weighted_sum(self, table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
        """embedding_bag, whose weights must have the table's type."""
        if table.dtype == weights.dtype:
            return F.embedding_bag(idx, table, per_sample_weights=weights, mode="sum")
        parts = [
            torch.einsum("tj,tjd->td", weights[block], table[idx[block]].to(weights.dtype))
            for block in _blocks(len(idx), idx.shape[1] * table.shape[1])
        ]
        return torch.cat(parts) if parts else weights.new_zeros(0, table.shape[1])

    def sort(self, idx: Tensor, n_rows: int, distinct: bool = True) -> Segments:
        """A stable sort; 16-bit keys are sorted by radix in numpy, several times faster."""
        flat = idx.view(-1)
        if idx.device.type == "cpu" and n_rows <= 2**16:
            order = torch.from_numpy(np.argsort(flat.numpy().astype(np.uint16), kind="stable"))
            by_row = flat[order]
        elif n_rows <= 2**31:
            by_row, order = torch.sort(flat.int(), stable=True)
        else:
            by_row, order = torch.sort(flat, stable=True)
        rows, counts = torch.unique_consecutive(by_row, return_counts=True)
        offsets = F.pad(counts.cumsum(0), (1, 0))
        return Segments(
            rows=rows.long(), offsets=offsets, order=order, n_rows=n_rows, n_columns=idx.shape[1]
        )

    def row_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Bags over the tokens; on a CPU a block at a time, into memory that is used again."""
        n_rows, width = len(segments.rows), values.shape[1]
        if values.device.type != "cpu":
            return _bags(values, segments, weights).to(dtype)
        out = WORKSPACE.empty((n_rows, width), dtype)
        for block in _blocks(n_rows, width):
            out[block] = _bags(values, _part(segments, block), weights)
        return out

    def table_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Same, to their rows of zeros."""
        n_rows, width = len(segments.rows), values.shape[1]
        if values.device.type != "cpu":
            out = values.new_zeros(segments.n_rows, width, dtype=dtype)
            out[segments.rows] = _bags(values, segments, weights).to(dtype)
            return out
        out = WORKSPACE.empty((segments.n_rows, width), dtype).zero_()
        for block in _blocks(n_rows, width):
            part = _part(segments, block)
            out[part.rows] = _bags(values, part, weights).to(dtype)
        return out

    def search(
        self, queries: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Scores, the best of each half, the best of their pairs; tokens in blocks."""
        n_tokens, n_heads = queries.shape[:2]
        n_both = sub_keys.shape[1]
        ranks = _ranks(top_k, n_first, n_both - n_first, queries.device)
        found = [
            _best_pairs(scores_of_halves(queries[block], sub_keys, n_first, bias), top_k, *ranks)
            for block in _blocks(n_tokens, n_heads * n_both)
        ]
        if not found:
            empty = torch.zeros(0, n_heads, top_k, dtype=torch.int64, device=queries.device)
            return empty.to(queries.dtype), empty, empty
        scores, first, second = (torch.cat(part) for part in zip(*found, strict=True))
        return scores, first, second

    def row_adamw(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        rows: Tensor,
        gradient: Tensor,
        step: AdamWStep,
    ) -> None:
        """Gathers, steps and scatters, a block of rows at a time."""
        width = table.shape[1]
        columns = step.first_column, step.whole_width(table)
        for block in _blocks(len(rows), width):
            at = rows[block]
            wide = torch.promote_types(table.dtype, torch.float32)
            g = gradient[block].to(wide)
            mean, square = (m[at].to(wide) for m in moments)
            mean.lerp_(g, 1 - step.beta1)
            square.mul_(step.beta2).addcmul_(g, g, value=1 - step.beta2)
            weight = table[at].to(wide).mul_(1 - step.lr * step.weight_decay)
            root = square.sqrt().div_(step.root_correction).add_(step.eps)
            weight.addcdiv_(mean, root, value=-step.step_size)
            for salt, (stored, new) in enumerate(
                ((table, weight), (moments[0], mean), (moments[1], square))
            ):
                stored[at] = round_to(new, stored.dtype, at, step.step, salt, *columns)

    def row_adamw_of_sums(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        values: Tensor,
        segments: Segments,
        weights: Tensor,
        step: AdamWStep,
    ) -> None:
        """A block of rows at a time: their sums, their step."""
        for block in _blocks(len(segments.rows), table.shape[1]):
            part = _part(segments, block)
            gradient = self.row_sums(values, part, weights, values.dtype)
            self.row_adamw(table, moments, part.rows, gradient, step)


@lru_cache(maxsize=64)
def _ranks(top_k: int, n_first: int, n_second: int, device: torch.device) -> tuple[Tensor, Tensor]:
    left, right = candidate_pairs(top_k, n_first, n_second)
    return torch.tensor(left, device=device), torch.tensor(right, device=device)


def _blocks(n: int, elements_each: int) -> Iterator[slice]:
    size = max(1, _BLOCK // max(1, elements_each))
    return (slice(start, start + size) for start in range(0, n, size))


def _part(segments: Segments, block: slice) -> Segments:
    """Segments of some of the rows."""
    offsets = segments.offsets[block.start : block.stop + 1]
    return Segments(
        rows=segments.rows[block],
        offsets=offsets - offsets[0],
        order=segments.order[offsets[0] : offsets[-1]],
        n_rows=segments.n_rows,
        n_columns=segments.n_columns,
    )


def _bags(values: Tensor, segments: Segments, weights: Tensor) -> Tensor:
    """(R, D) sums of weighted values, of values' type."""
    if not len(segments.rows):
        return values.new_zeros(0, values.shape[1])
    order = segments.order
    return F.embedding_bag(
        order // segments.n_columns,
        values,
        segments.offsets[:-1],
        per_sample_weights=weights.view(-1)[order],
        mode="sum",
    )


def _dot_in_blocks(x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
    parts = [
        torch.einsum("td,tjd->tj", x[block], table[idx[block]].to(x.dtype))
        for block in _blocks(len(idx), idx.shape[1] * table.shape[1])
    ]
    return torch.cat(parts) if parts else x.new_zeros(idx.shape)


def _best_pairs(
    halves: tuple[Tensor, Tensor], top_k: int, i: Tensor, j: Tensor
) -> tuple[Tensor, ...]:
    """(T, H, S1) and (T, H, S2) scores to the best pairs' (T, H, K) scores and sub-keys."""
    (values1, indices1), (values2, indices2) = (
        top_of_rows(scores, min(top_k, scores.shape[-1])) for scores in halves
    )
    sums = values1.index_select(-1, i) + values2.index_select(-1, j)
    best, winner = sums.topk(top_k, dim=-1)
    first = indices1.gather(-1, i[winner])
    second = indices2.gather(-1, j[winner])
    return best, first, second


def top_of_rows(scores: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """topk over the last dimension, by groups: the best k are in the k groups of highest maximum.

    Two searches, among n / 8 and 8 k, instead of one among n: on a CPU topk takes time in
    proportion to the row. A group is every (n / 8)-th score, so that maxima are of whole vectors.
    """
    n, size = scores.shape[-1], 8
    if scores.device.type != "cpu" or n % size or n < 4 * size * k:
        best = scores.topk(k, dim=-1)
        return best.values, best.indices
    groups = scores.unflatten(-1, (size, n // size))
    chosen = groups.amax(-2).topk(k, dim=-1, sorted=False).indices
    inside = groups.gather(-1, chosen.unsqueeze(-2).expand(*chosen.shape[:-1], size, k))
    best = inside.flatten(-2).topk(k, dim=-1)
    member, group = best.indices // k, chosen.gather(-1, best.indices % k)
    return best.values, member * (n // size) + group


_ODD = 0x9E3779B1


def _wrapped(x: Tensor) -> Tensor:
    """int64 as the int32 of its lower half."""
    return ((x + 2**31 & 0xFFFFFFFF) - 2**31).int()


def round_to(
    x: Tensor,
    dtype: torch.dtype,
    rows: Tensor,
    step: int,
    salt: int,
    first_column: int = 0,
    width: int = 0,
) -> Tensor:
    """x (R, D) as dtype; to bfloat16 stochastically, by a hash of step, salt, row and column.
    first_column, width: as AdamWStep has them.

    An update far below a weight's 8 bits is then right on average, where rounding to the nearest
    would lose it each time.
    """
    if dtype != torch.bfloat16:
        return x.to(dtype)
    # 32-bit products that wrap; >> is arithmetic, so what it lets in from the left is masked
    columns = torch.arange(first_column, first_column + x.shape[1], device=x.device)
    first = (rows * (width or x.shape[1])) * _ODD + step * 0x85EBCA6B + salt * 0x27D4EB2F
    h = _wrapped(first).unsqueeze(1) + _wrapped(columns * _ODD)
    h.bitwise_xor_((h >> 16).bitwise_and_(0xFFFF)).mul_(0x7FEB352D)
    h.bitwise_xor_((h >> 15).bitwise_and_(0x1FFFF)).mul_(0x046CA68B)
    noise = h.bitwise_xor_(h >> 16).bitwise_and_(0xFFFF)
    bits = x.float().contiguous().view(torch.int32) + noise
    rounded = (bits & -65536).view(torch.float32).to(torch.bfloat16)
    return torch.where(x.isnan(), torch.nan, rounded)  # noise would carry some NaNs to a number
