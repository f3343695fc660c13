# mypy: disable-error-code="no-untyped-def"
"""Products of rows sorted by expert with their expert's matrix, in Triton: grouped.py's on a GPU.

An expert's rows are cut into tiles, and how many tiles there are is known to the device alone:
there is room for the most that there can be, and programs of tiles that do not exist end at once.
So the host waits for nothing. There are no atomics, so a sum has one value. Products of float32 are
exact (no TF32), those of bfloat16 are added up in float32.

Suffixes: T rows, E experts, D and F the sides of a matrix.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from experiments.kernels.triton_launch import launch, n_blocks, power_of_2


def product(x: Tensor, weights: Tensor, ends: Tensor) -> Tensor:
    """(T, D), (E, D, F) of any strides, (E,) to (T, F), of x's type."""
    (n_rows, width), (n_experts, _, n_out) = x.shape, weights.shape
    out = torch.empty(n_rows, n_out, dtype=x.dtype, device=x.device)
    tile = _tile(x, -(-n_rows // n_experts), n_out, width)
    tiles = _tiles(ends, n_rows, tile["ROWS"])
    n_programs = len(tiles[0]) * n_blocks(n_out, tile["COLUMNS"])
    sides = (width, n_out, *weights.stride())
    launch(grouped_kernel, n_programs, x.contiguous(), weights, out, tiles, *sides, **tile)
    return out


def weights_gradient(x: Tensor, grad: Tensor, ends: Tensor) -> Tensor:
    """(T, D), (T, F), (E,) to (E, D, F): of each expert, the sum of its rows' outer products."""
    (n_rows, width), n_out, n_experts = x.shape, grad.shape[1], len(ends)
    out = torch.empty(n_experts, width, n_out, dtype=x.dtype, device=x.device)
    tile = _tile(x, width, n_out, -(-n_rows // n_experts))
    blocks = n_blocks(width, tile["ROWS"]) * n_blocks(n_out, tile["COLUMNS"])
    given = (x.contiguous(), grad.contiguous(), ends.to(torch.int64), out)
    launch(grouped_weights_kernel, n_experts * blocks, *given, width, n_out, **tile)
    return out


def _tile(x: Tensor, n_rows: int, n_columns: int, n_inner: int) -> dict[str, Any]:
    """By sizes alone, so that a sum has the same order in every run. Float32 has no tensor cores:
    its tiles are smaller, for a lane holds its part of the sums.
    """
    most, most_inner = (128, 32) if x.dtype == torch.bfloat16 else (64, 16)
    rows, columns = (min(most, max(16, power_of_2(n))) for n in (n_rows, n_columns))
    inner = min(most_inner, max(16, power_of_2(n_inner)))
    warps = min(8, max(1, rows * columns // 1024))
    tile = {"ROWS": rows, "COLUMNS": columns, "INNER": inner, "num_warps": warps}
    return {**tile, "WIDEN": x.device.type == "cpu"}


def _tiles(ends: Tensor, n_rows: int, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """A tile's expert, and where its rows begin and end; nowhere if it does not exist."""
    ends = ends.to(torch.int64)
    counts = ends.diff(prepend=ends.new_zeros(1))
    n_tiles = (counts + (size - 1)) // size
    tile_ends = n_tiles.cumsum(0)
    # each expert's last tile may be ragged
    tile = torch.arange(n_rows // size + len(ends), device=ends.device)
    expert = torch.searchsorted(tile_ends, tile, right=True).clamp_(max=len(ends) - 1)
    begin = (ends - counts)[expert] + (tile - (tile_ends - n_tiles)[expert]) * size
    return expert, begin, torch.minimum(begin + size, ends[expert])


@triton.jit
def grouped_kernel(
    x,
    weights,
    out,
    tiles,
    D,
    F,
    of_expert,
    of_d,
    of_f,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """A program: a tile of rows by COLUMNS of their products. of_...: strides of the weights."""
    experts, begins, ends = tiles
    n_blocks = tl.cdiv(F, COLUMNS)
    tile = tl.program_id(0) // n_blocks
    begin = tl.load(begins + tile)
    end = tl.load(ends + tile)
    if begin < end:
        # places are of 32 bits within a tile and within a matrix, which begin at ones of 64
        x += begin * D
        out += begin * F
        weights += tl.load(experts + tile) * of_expert
        row = tl.arange(0, ROWS)
        column = (tl.program_id(0) % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
        inside, in_width = row < end - begin, column < F
        total = tl.zeros((ROWS, COLUMNS), tl.float32)
        for start in range(0, D, INNER):
            d = start + tl.arange(0, INNER)
            at = row[:, None] * D + d[None, :]
            left = tl.load(x + at, mask=inside[:, None] & (d < D)[None, :], other=0.0)
            at = d[:, None] * of_d + column[None, :] * of_f
            right = tl.load(weights + at, mask=(d < D)[:, None] & in_width[None, :], other=0.0)
            total = _added(left, right, total, WIDEN)
        at = row[:, None] * F + column[None, :]
        mask = inside[:, None] & in_width[None, :]
        tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def grouped_weights_kernel(
    x,
    grad,
    ends,
    out,
    D,
    F,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    INNER: tl.constexpr,
    WIDEN: tl.constexpr,
):
    """A program: ROWS by COLUMNS of one expert's matrix, over its rows INNER at a time."""
    n_blocks = tl.cdiv(F, COLUMNS)
    of_expert = n_blocks * tl.cdiv(D, ROWS)
    expert = (tl.program_id(0) // of_expert).to(tl.int64)
    out += expert * D * F
    block = tl.program_id(0) % of_expert
    d = (block // n_blocks) * ROWS + tl.arange(0, ROWS)
    column = (block % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(ends + expert - 1, mask=expert > 0, other=0)
    end = tl.load(ends + expert)
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(begin, end, INNER):
        row = tl.arange(0, INNER)
        inside = row < end - start
        at = row[None, :] * D + d[:, None]
        left = tl.load(x + start * D + at, mask=inside[None, :] & (d < D)[:, None], other=0.0)
        at = row[:, None] * F + column[None, :]
        right = tl.load(
            grad + start * F + at, mask=inside[:, None] & (column < F)[None, :], other=0.0
        )
        total = _added(left, right, total, WIDEN)
    at = d[:, None] * F + column[None, :]
    mask = (d < D)[:, None] & (column < F)[None, :]
    tl.store(out + at, total.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _added(left, right, total, WIDEN: tl.constexpr):
    """total and the product of two tiles. WIDEN: for the interpreter, which has no bfloat16."""
    if WIDEN:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, total, input_precision="ieee")
