# mypy: disable-error-code="no-untyped-def"
"""Gathers in Triton: dot and weighted_sum of interface.py, a token and a block a program.

Addresses are 64-bit: N * D passes 2**31. Suffixes and letters are those of interface.py.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from experiments.kernels.triton_launch import dot_tile, launch, n_blocks, row_tile


def dot(x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
    """(T, D), (N, D), (T, J) to (T, J): x_t . table[idx_tj]."""
    n_tokens, n_columns = idx.shape
    out = torch.empty(idx.shape, dtype=x.dtype, device=x.device)
    if out.numel():
        tile = dot_tile(n_columns, x.shape[1])
        n_programs = n_tokens * n_blocks(n_columns, tile["ROWS"])
        launch(dot_kernel, n_programs, x, table, idx, out, n_columns, x.shape[1], **tile)
    return out


def weighted_sum(table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
    """(N, D), (T, J), (T, J) to (T, D): sum_j weights_tj table[idx_tj]."""
    n_tokens, n_columns = idx.shape
    width = table.shape[1]
    out = torch.empty(n_tokens, width, dtype=weights.dtype, device=table.device)
    tile = row_tile(width)
    n_programs = n_tokens * n_blocks(width, tile["COLUMNS"])
    launch(weighted_sum_kernel, n_programs, table, idx, weights, out, n_columns, width, **tile)
    return out


@triton.jit
def dot_kernel(x, table, idx, out, J, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """A program: one token, ROWS of its rows. Products are summed over columns once, at the end."""
    n_blocks = tl.cdiv(J, ROWS)
    token = (tl.program_id(0) // n_blocks).to(tl.int64)
    j = (tl.program_id(0) % n_blocks) * ROWS + tl.arange(0, ROWS)
    in_row = j < J
    row = tl.load(idx + token * J + j, mask=in_row, other=0)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, D, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        in_width = column < D
        x_part = tl.load(x + token * D + column, mask=in_width, other=0.0).to(tl.float32)
        at = row[:, None] * D + column[None, :]
        inside = in_row[:, None] & in_width[None, :]
        part = tl.load(table + at, mask=inside, other=0.0).to(tl.float32)
        total += part * x_part[None, :]
    tl.store(out + token * J + j, tl.sum(total, 1), mask=in_row)


@triton.jit
def weighted_sum_kernel(
    table, idx, weights, out, J, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """A program: one token, COLUMNS of its sum; ROWS rows are loaded at a time."""
    n_blocks = tl.cdiv(D, COLUMNS)
    token = (tl.program_id(0) // n_blocks).to(tl.int64)
    column = (tl.program_id(0) % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    in_width = column < D
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(0, J, ROWS):
        j = start + tl.arange(0, ROWS)
        in_row = j < J
        row = tl.load(idx + token * J + j, mask=in_row, other=0)
        weight = tl.load(weights + token * J + j, mask=in_row, other=0.0).to(tl.float32)
        at = row[:, None] * D + column[None, :]
        inside = in_row[:, None] & in_width[None, :]
        part = tl.load(table + at, mask=inside, other=0.0).to(tl.float32)
        total += part * weight[:, None]
    tl.store(out + token * D + column, tl.sum(total, 0), mask=in_width)
