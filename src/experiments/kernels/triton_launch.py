"""How the Triton kernels are started, and the shapes of their tiles.

The shapes follow from widths alone, never from timing: a sum has the same order in every run.
Widths are constants of a compiled kernel: of a number that it is given the compiler knows no more
than whether 16 divides it, and a row of 1000 would be read 4 bytes at a time.
"""

from typing import Any

import torch
import triton
from torch import Tensor

_PER_WARP = 1024  # elements of a tile a warp: four loads of 16 bytes in flight a lane, in bfloat16


def launch(kernel: Any, n_programs: int, first: Tensor, *rest: Any, **options: Any) -> None:
    """Runs n_programs of a kernel on its first argument's device; none is fine."""
    if not n_programs:
        return
    with torch.cuda.device_of(first):  # Triton takes the current device; no-op on a CPU
        # given, because Triton warns without it, and its default changes between versions
        kernel[(n_programs,)](first, *rest, enable_fp_fusion=True, **options)


def row_tile(width: int) -> dict[str, int]:
    """A tile of whole rows, or 1024 columns of them, that is summed over its rows.

    As many warps as can share the columns, so that a lane sums its own columns.
    """
    columns = min(1024, power_of_2(width))
    warps = max(1, columns // 256)
    rows = min(16, max(1, _PER_WARP * warps // columns))  # most segments are short
    return {"ROWS": rows, "COLUMNS": columns, "num_warps": warps}


def dot_tile(n_rows: int, width: int) -> dict[str, int]:
    """A tile of up to n_rows rows by up to 256 columns, that is summed over its columns.

    256 columns of bfloat16 are one load of 16 bytes by each lane of a warp: a row's sum stays
    within its warp.
    """
    columns = min(256, power_of_2(width))
    rows = min(4 * _PER_WARP // columns, power_of_2(n_rows))
    return {"ROWS": rows, "COLUMNS": columns, "num_warps": max(1, rows * columns // _PER_WARP)}


def n_blocks(n: int, block: int) -> int:
    """Blocks that hold n."""
    return -(-n // block)


def power_of_2(n: int) -> int:
    """n, or the next power of two: what the length of a tl.arange has to be."""
    size: int = triton.next_power_of_2(n)
    return size
