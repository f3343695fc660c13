"""Tables of rows, of which a token reads a few: how they start, and reading rows as they are."""

import torch
from torch import Tensor, nn

from experiments.kernels.ops import Execution, gather_sum
from experiments.models.ffn._base import check_choice

INITS = ("normal", "zero")
TABLE_DTYPES = ("float32", "bfloat16")


def check_rows(value_init: str, table_dtype: str) -> None:
    """Raises ValueError for one that is not of these names."""
    check_choice("value_init", value_init, INITS)
    check_choice("table_dtype", table_dtype, TABLE_DTYPES)


def new_rows(
    n_rows: int, d_row: int, dtype: str, init: str = "normal", n_summed: int = 1
) -> nn.Parameter:
    """An (n_rows, d_row) table, N(0, (n_summed * d_row)**-0.5) or zero."""
    rows = torch.zeros(n_rows, d_row)
    if init == "normal":
        nn.init.normal_(rows, std=(n_summed * d_row) ** -0.5)
    return nn.Parameter(rows.to(getattr(torch, dtype)))


def read_rows(table: Tensor, indices: Tensor, execution: Execution) -> Tensor:
    """(n_rows, d_row) and (T, J) int64 to the rows (T, J, d_row), float32 or float64."""
    one_each = indices.reshape(-1, 1)
    weights = torch.ones_like(one_each, dtype=torch.float32)
    rows = gather_sum(table, one_each, weights, execution)
    return rows.view(*indices.shape, table.shape[1])
