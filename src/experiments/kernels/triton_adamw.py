# mypy: disable-error-code="no-untyped-def"
"""AdamW steps of a table's rows in Triton: row_adamw and row_adamw_of_sums of interface.py."""

import triton
import triton.language as tl
from torch import Tensor

from experiments.kernels.interface import AdamWStep, Segments
from experiments.kernels.triton_launch import launch, n_blocks, row_tile
from experiments.kernels.triton_sums import CHUNK, row_sum, summands


def step_rows(
    table: Tensor,
    moments: tuple[Tensor, Tensor],
    rows: Tensor,
    gradient: Tensor,
    step: AdamWStep,
) -> None:
    """Steps the given rows by their (R, D) gradients, in place."""
    width = table.shape[1]
    tile = row_tile(width)
    del tile["ROWS"]  # a program has one
    n_programs = len(rows) * n_blocks(width, tile["COLUMNS"])
    state = (table, *moments)
    launch(
        step_kernel,
        n_programs,
        rows,
        gradient,
        state,
        width,
        _numbers(step),
        step.step,
        FIRST=step.first_column,
        WIDTH=step.whole_width(table),
        **tile,
    )


def step_rows_of_sums(
    table: Tensor,
    moments: tuple[Tensor, Tensor],
    values: Tensor,
    segments: Segments,
    weights: Tensor,
    step: AdamWStep,
) -> None:
    """step_rows by the rows' sums, each made where it is used."""
    width = table.shape[1]
    tile = row_tile(width)
    launch(
        step_of_sums_kernel,
        len(segments.rows) * n_blocks(width, tile["COLUMNS"]),
        segments.rows,
        *summands(values, segments, weights),
        (table, *moments),
        width,
        _numbers(step),
        step.step,
        J=segments.n_columns,
        CHUNK=CHUNK,
        FIRST=step.first_column,
        WIDTH=step.whole_width(table),
        **tile,
    )


def _numbers(step: AdamWStep) -> tuple[float, ...]:
    """Numbers of a step that _step takes, in its order."""
    numbers = (
        1 - step.beta1,
        1 - step.beta2,
        step.beta2,
        1 - step.lr * step.weight_decay,
        step.eps,
        step.root_correction,
        step.step_size,
    )
    return tuple(map(float, numbers))  # an int would be compiled in


@triton.jit(do_not_specialize=["step"])
def step_kernel(
    rows,
    gradient,
    state,
    D: tl.constexpr,
    numbers,
    step,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program: COLUMNS of one row. FIRST, WIDTH: AdamWStep.first_column and whole_width."""
    n_blocks = tl.cdiv(D, COLUMNS)
    r = (tl.program_id(0) // n_blocks).to(tl.int64)
    column = (tl.program_id(0) % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    g = tl.load(gradient + r * D + column, mask=column < D, other=0.0).to(tl.float32)
    row = tl.load(rows + r)
    place = row * WIDTH + FIRST + column
    _step(g, row * D + column, place, column < D, state, numbers, step)


@triton.jit(do_not_specialize=["step"])
def step_of_sums_kernel(
    rows,
    pairs,
    chunks,
    state,
    D: tl.constexpr,
    numbers,
    step,
    J: tl.constexpr,
    CHUNK: tl.constexpr,
    FIRST: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program: COLUMNS of one row, whose gradient it sums first. One without a pair stays."""
    n_blocks = tl.cdiv(D, COLUMNS)
    r = (tl.program_id(0) // n_blocks).to(tl.int64)
    column = (tl.program_id(0) % n_blocks) * COLUMNS + tl.arange(0, COLUMNS)
    offsets, _, _ = chunks
    if tl.load(offsets + r) < tl.load(offsets + r + 1):
        g = row_sum(r, column, pairs, chunks, D, J, CHUNK, ROWS, COLUMNS)
        row = tl.load(rows + r)
        place = row * WIDTH + FIRST + column
        _step(g, row * D + column, place, column < D, state, numbers, step)


@triton.jit
def _step(g, at, place, inside, state, numbers, step):
    """AdamW by gradients g at the flat positions `at`, in the order of torch_kernels.row_adamw.
    place: these positions in the whole table.
    """
    table, mean, square = state
    rest1, rest2, beta2, decay, eps, root_correction, step_size = numbers
    m = tl.load(mean + at, mask=inside, other=0.0).to(tl.float32)
    v = tl.load(square + at, mask=inside, other=0.0).to(tl.float32)
    w = tl.load(table + at, mask=inside, other=0.0).to(tl.float32)
    m += (g - m) * rest1
    v = v * beta2 + g * g * rest2
    root = tl.div_rn(tl.sqrt_rn(v), root_correction) + eps
    w = w * decay - step_size * tl.div_rn(m, root)
    _store_rounded(table, at, place, w, inside, step, 0)
    _store_rounded(mean, at, place, m, inside, step, 1)
    _store_rounded(square, at, place, v, inside, step, 2)


@triton.jit
def _store_rounded(out, at, place, x, inside, step, SALT: tl.constexpr):
    """Stores x; in bfloat16 as torch_kernels.round_to has it, to the bit."""
    if out.dtype.element_ty == tl.bfloat16:
        bits = x.to(tl.int32, bitcast=True) + rounding_noise(place, step, SALT)
        high = (bits & -65536).to(tl.float32, bitcast=True)
        # noise on a NaN's bits may carry it over into a zero
        tl.store(out + at, tl.where(x == x, high, x).to(tl.bfloat16), mask=inside)
    else:
        tl.store(out + at, x, mask=inside)


@triton.jit
def rounding_noise(place, step, SALT: tl.constexpr):
    """int32 from 0 to 65535: round_to's hash of the flat positions, modulo 2**32 throughout."""
    h = place.to(tl.uint32) * 0x9E3779B1 + step.to(tl.uint32) * 0x85EBCA6B + SALT * 0x27D4EB2F
    h = (h ^ (h >> 16)) * 0x7FEB352D
    h = (h ^ (h >> 15)) * 0x046CA68B
    return ((h ^ (h >> 16)) & 0xFFFF).to(tl.int32)
