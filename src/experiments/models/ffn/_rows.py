"""Tables of rows, of which a token reads a few: how they start, and reading rows as they are."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor, nn

from experiments.kernels.ops import Execution, gather_sum
from experiments.models.ffn._base import check_choice

INITS = ("normal", "zero")
TABLE_DTYPES = ("float32", "bfloat16")
_BLOCK = 2**22  # elements that are drawn at once, at least
_UNIT = 16  # torch draws so many normal numbers together, and a table's last ones twice
_share: ContextVar[tuple[int, int]] = ContextVar("_share", default=(0, 1))


@contextmanager
def columns_alone(rank: int, size: int) -> Iterator[None]:
    """Tables made in here have the columns of process `rank` of `size` alone, as they are in a
    whole table: as many numbers are drawn, and no more than a block of them is held.
    """
    token = _share.set((rank, size))
    try:
        yield
    finally:
        _share.reset(token)


def whole_tables() -> AbstractContextManager[None]:
    """Tables made in here are whole, in columns_alone too."""
    return columns_alone(0, 1)


def check_rows(value_init: str, table_dtype: str, inits: tuple[str, ...] = INITS) -> None:
    """Raises ValueError for one that is not of these names."""
    check_choice("value_init", value_init, inits)
    check_choice("table_dtype", table_dtype, TABLE_DTYPES)


def new_rows(
    n_rows: int, d_row: int, dtype: str, init: str = "normal", n_summed: int = 1
) -> nn.Parameter:
    """An (n_rows, d_row) table: normal, N(0, (n_summed * d_row)**-0.5), zero, or xavier,
    N(0, (2 / (n_rows + d_row))**0.5); in columns_alone, of it the (n_rows, d_row / size) columns of
    that process.
    """
    rank, size = _share.get()
    width = d_row // size
    rows = torch.zeros(n_rows, width)
    if init != "zero":
        std = (2 / (n_rows + d_row)) ** 0.5 if init == "xavier" else (n_summed * d_row) ** -0.5
        if size == 1:
            nn.init.normal_(rows, std=std)
        else:
            _draw(rows, d_row, rank * width, std)
    return nn.Parameter(rows.to(getattr(torch, dtype)))


def _draw(rows: Tensor, d_row: int, first: int, std: float) -> None:
    """Fills (n_rows, width) with the columns from `first` on of an (n_rows, d_row) table, as it
    would be drawn whole.
    """
    n_rows, width = rows.shape
    step = -(-_BLOCK // (d_row * _UNIT)) * _UNIT
    start = 0
    while start < n_rows:
        end = start + step
        if n_rows - end < _UNIT:  # a few rows more: the last numbers are drawn as in a whole table
            end = n_rows
        block = torch.empty(end - start, d_row)
        nn.init.normal_(block, std=std)
        rows[start:end] = block[:, first : first + width]
        start = end


def read_rows(table: Tensor, indices: Tensor, execution: Execution) -> Tensor:
    """(n_rows, d_row) and (T, J) int64 to the rows (T, J, d_row), float32 or float64."""
    one_each = indices.reshape(-1, 1)
    weights = torch.ones_like(one_each, dtype=torch.float32)
    rows = gather_sum(table, one_each, weights, execution)
    return rows.view(*indices.shape, table.shape[1])
