# mypy: disable-error-code="no-untyped-def"
"""Sums over the pairs of a row in Triton: row_sums and table_sums of interface.py.

A program sums one row's pairs in their order. A row that more than CHUNK pairs retrieve (a hot
expert) would keep one program busy while all others have ended: its pairs are first summed in
chunks, by a program each, and then the chunks in their order. There are no atomics, so a sum has
one value.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from experiments.kernels.interface import Segments
from experiments.kernels.triton_launch import launch, n_blocks, row_tile

CHUNK = 1024  # pairs: a fraction of a millisecond for a program; partial sums take 2 P / CHUNK rows


def sort_all(idx: Tensor, n_rows: int) -> Segments:
    """sort of interface.py with all rows for the distinct ones: the host waits for nothing."""
    narrow = idx.int() if n_rows < 2**31 else idx
    by_row, order = torch.sort(narrow.view(-1), stable=True)
    rows = torch.arange(n_rows + 1, dtype=narrow.dtype, device=idx.device)
    return Segments(
        rows=rows[:-1].long(),
        offsets=torch.searchsorted(by_row, rows),
        order=order,
        n_rows=n_rows,
        n_columns=idx.shape[1],
    )


def sums_into(
    out: Tensor, values: Tensor, segments: Segments, weights: Tensor, *, by_row: bool
) -> None:
    """Writes the sums to an (R, D) out in turn; by_row: each to its row of an (N, D)."""
    width = values.shape[1]
    tile = row_tile(width)
    launch(
        sums_kernel,
        len(segments.rows) * n_blocks(width, tile["COLUMNS"]),
        out,
        segments.rows,
        *summands(values, segments, weights),
        width,
        J=segments.n_columns,
        BY_ROW=by_row,
        CHUNK=CHUNK,
        **tile,
    )


def summands(
    values: Tensor, segments: Segments, weights: Tensor
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Arguments of row_sum: pairs, and chunks with the sums of the long rows' chunks.

    How many chunks there are is known to the device alone: there is room for the most that there
    can be, and programs of chunks that do not exist write what nobody reads.
    """
    order, offsets = segments.order, segments.offsets
    pairs = (values, order, weights)
    if len(order) <= CHUNK:  # no row can be long: nothing reads the last two
        return pairs, (offsets, offsets, values)
    counts = offsets.diff()
    n_chunks = torch.where(counts > CHUNK, (counts + (CHUNK - 1)) // CHUNK, 0)
    ends = n_chunks.cumsum(0)
    firsts = ends - n_chunks
    # a long row has count > CHUNK, so that ceil(count / CHUNK) < 2 count / CHUNK
    chunk = torch.arange(2 * len(order) // CHUNK, device=order.device)
    row = torch.searchsorted(ends, chunk, right=True).clamp_(max=len(counts) - 1)
    begin = offsets[row] + (chunk - firsts[row]) * CHUNK
    end = torch.minimum(begin + CHUNK, offsets[row + 1])
    width = values.shape[1]
    partials = torch.empty(len(chunk), width, device=values.device)
    tile = row_tile(width)
    n_programs = len(chunk) * n_blocks(width, tile["COLUMNS"])
    launch(
        chunks_kernel, n_programs, partials, begin, end, pairs, width, J=segments.n_columns, **tile
    )
    return pairs, (offsets, firsts, partials)


@triton.jit
def sums_kernel(
    out,
    rows,
    pairs,
    chunks,
    D: tl.constexpr,
    J: tl.constexpr,  # positions are divided by it
    BY_ROW: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program: COLUMNS of one distinct row's sum."""
    n_blocks = tl.cdiv(D, COLUMNS)
    r = (tl.program_id(0) // n_blocks).to(tl.int64)
    column = (tl.program_id(0) % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    total = row_sum(r, column, pairs, chunks, D, J, CHUNK, ROWS, COLUMNS)
    if BY_ROW:
        r = tl.load(rows + r)
    tl.store(out + r * D + column, total.to(out.dtype.element_ty), mask=column < D)


@triton.jit
def chunks_kernel(
    partials,
    begins,
    ends,
    pairs,
    D: tl.constexpr,
    J: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program: COLUMNS of one chunk's sum."""
    n_blocks = tl.cdiv(D, COLUMNS)
    chunk = (tl.program_id(0) // n_blocks).to(tl.int64)
    column = (tl.program_id(0) % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    begin = tl.load(begins + chunk)
    end = tl.load(ends + chunk)
    total = _pair_sum(begin, end, column, pairs, D, J, ROWS, COLUMNS)
    tl.store(partials + chunk * D + column, total, mask=column < D)


@triton.jit
def row_sum(
    r,
    column,
    pairs,
    chunks,
    D: tl.constexpr,
    J: tl.constexpr,
    CHUNK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """(COLUMNS,) float32: the r-th distinct row's sum, from its chunks' sums if it is long."""
    offsets, firsts, partials = chunks
    begin = tl.load(offsets + r)
    end = tl.load(offsets + r + 1)
    if end - begin <= CHUNK:
        total = _pair_sum(begin, end, column, pairs, D, J, ROWS, COLUMNS)
    else:
        first = tl.load(firsts + r)
        last = first + tl.cdiv(end - begin, CHUNK)
        total = _partials_sum(first, last, column, partials, D, ROWS, COLUMNS)
    return total


@triton.jit
def _pair_sum(
    begin,
    end,
    column,
    pairs,
    D: tl.constexpr,
    J: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """(COLUMNS,) float32: the sum of weights_tj values_t over pairs begin to end of the order."""
    values, order, weights = pairs
    in_width = column < D
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(begin, end, ROWS):
        at = start + tl.arange(0, ROWS)
        inside = at < end
        pair = tl.load(order + at, mask=inside, other=0)
        weight = tl.load(weights + pair, mask=inside, other=0.0).to(tl.float32)
        value_at = (pair // J)[:, None] * D + column[None, :]
        mask = inside[:, None] & in_width[None, :]
        part = tl.load(values + value_at, mask=mask, other=0.0).to(tl.float32)
        total += part * weight[:, None]
    return tl.sum(total, 0)


@triton.jit
def _partials_sum(
    first, last, column, partials, D: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr
):
    """(COLUMNS,) float32: the sum of partial sums first to last."""
    in_width = column < D
    total = tl.zeros((ROWS, COLUMNS), tl.float32)
    for start in range(first, last, ROWS):
        chunk = start + tl.arange(0, ROWS)
        mask = (chunk < last)[:, None] & in_width[None, :]
        total += tl.load(partials + chunk[:, None] * D + column[None, :], mask=mask, other=0.0)
    return tl.sum(total, 0)
