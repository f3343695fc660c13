"""Checks the arguments of the kernels' public functions: shapes, types, devices and counts.

An implementation reads memory by what it is told, so each of ops.py's and grouped.py's functions
asks here first, whichever implementation runs. Nothing is read of a tensor but its description.
Values of indices are read only with EXPERIMENTS_CHECK_INDICES=1 (docs/kernels.md).

Suffixes as in interface.py. TypeError for types, ValueError for everything else.
"""

import os
from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.kernels.interface import Kernel, Retrieved


def check_gather(
    function: str,
    table: Tensor,
    idx: Tensor | Retrieved,
    values: Tensor,
    name: str,
    kernel: Kernel | None = None,
) -> None:
    """(N, D) table, (T, J) idx and values, called `name`: x, (T, D), or weights, (T, J).

    kernel: what would run; a Retrieved must have been made for its like.
    """
    given = idx.idx if isinstance(idx, Retrieved) else idx
    _floating(function, name, values)
    _floating(function, "table", table)
    _dimensions(function, "table", table, 2, "(N, D)")
    _dimensions(function, "idx", given, 2, "(T, J)")
    if given.dtype != torch.int64:
        raise TypeError(f"{function}: idx is {given.dtype}, and must be torch.int64: idx.long()")
    if not table.is_contiguous():
        raise ValueError(
            f"{function}: the table, {tuple(table.shape)} with strides {table.stride()}, is not "
            "contiguous, and is not copied at each call: give table.contiguous()"
        )
    (n_rows, width), (n_tokens, n_columns) = table.shape, given.shape
    if values.shape != (n_tokens, width if name == "x" else n_columns):
        raise ValueError(
            f"{function}: {name} is {tuple(values.shape)}, and must be "
            f"{'(T, D)' if name == 'x' else '(T, J)'} where idx (T, J) is {tuple(given.shape)} "
            f"and the table (N, D) {tuple(table.shape)}"
        )
    _one_device(function, values, table, given)
    if n_rows == 0 and n_tokens * n_columns:
        raise ValueError(f"{function}: idx {tuple(given.shape)} asks for rows of a table of none")
    if isinstance(idx, Retrieved) and kernel is not None:
        of, now = (idx.n_rows, idx.kernel.name), (table.shape[0], kernel.name)
        if of != now:
            raise ValueError(
                f"{function}: idx was retrieved for a table of {of[0]} rows by kernel={of[1]}, and "
                f"is used with one of {now[0]} by kernel={now[1]}; give the indices themselves"
            )


def check_share(function: str, n_own: int, n_all: int, size: int) -> None:
    """Of tables in columns: this process's tokens, and those of all `size` processes."""
    if n_own * size != n_all:
        raise ValueError(
            f"{function}: {n_own} tokens here, and indices of {n_all}; each of {size} processes "
            "must have as many"
        )


def check_search(
    queries: Tensor, sub_keys: Tensor, top_k: int, n_first: int | None, bias: Tensor | None
) -> None:
    """(T, H, d_key) queries, sub_keys as product_keys.both_sets takes them, bias (S1,)."""
    function = "product_key_topk"
    _floating(function, "queries", queries)
    _floating(function, "sub_keys", sub_keys)
    _dimensions(function, "queries", queries, 3, "(T, H, d_key)")
    _, n_heads, d_key = queries.shape
    if d_key % 2 or not d_key or not n_heads:
        raise ValueError(
            f"{function}: queries {tuple(queries.shape)}: d_key={d_key} must be even, two halves, "
            "and there must be a head"
        )
    given, shared = sub_keys.shape, 3 if n_first is None else 2  # dimensions where heads share them
    two = n_first is not None or (len(given) >= 3 and given[-3] == 2)
    if len(given) not in (shared, shared + 1) or not two or given[-1] != d_key // 2:
        sets = "2, S" if n_first is None else "S1 + S2"
        raise ValueError(
            f"{function}: sub_keys are {tuple(given)}, and must be ({sets}, d_key / 2) or "
            f"(H, {sets}, d_key / 2) where queries (T, H, d_key) are {tuple(queries.shape)}"
        )
    if len(given) > shared and given[0] not in (1, n_heads):
        raise ValueError(
            f"{function}: sub_keys {tuple(given)} are of {given[0]} heads, and queries "
            f"{tuple(queries.shape)} of {n_heads}"
        )
    n_second = given[-2] if n_first is None else given[-2] - n_first
    n_first = given[-2] if n_first is None else n_first
    if n_first < 1 or n_second < 1:
        raise ValueError(
            f"{function}: n_first={n_first} leaves no sub-key to one of the halves of sub_keys "
            f"{tuple(given)}"
        )
    if not isinstance(top_k, int) or not 1 <= top_k <= n_first * n_second:
        raise ValueError(
            f"{function}: top_k={top_k!r} must be a number from 1 to {n_first * n_second}, the "
            f"product keys of {n_first} and {n_second} sub-keys"
        )
    tensors = [queries, sub_keys]
    if bias is not None:
        _floating(function, "bias", bias)
        _shape(function, "bias", bias, (n_first,), "one for each sub-key of the first half")
        tensors.append(bias)
    _one_device(function, *tensors)


def check_rows(
    table: Tensor,
    moments: Sequence[Tensor],
    rows: Tensor | None = None,
    gradient: Tensor | None = None,
) -> None:
    """(N, D) table and moments, which are stepped in place; (R,) rows and (R, D) gradient, or
    neither where a row's gradient is summed from its pairs.
    """
    function = "row_adamw"
    _floating(function, "table", table)
    _dimensions(function, "table", table, 2, "(N, D)")
    for name, tensor in zip(("table", "exp_avg", "exp_avg_sq"), (table, *moments)):
        _shape(function, name, tensor, table.shape, "the table's")
        if not tensor.is_contiguous():
            raise ValueError(
                f"{function}: {name}, {tuple(tensor.shape)} with strides {tensor.stride()}, is "
                "stepped in place and must be contiguous: make the parameter by .contiguous()"
            )
    kinds = {moment.dtype for moment in moments}
    if len(kinds) > 1 or not kinds <= {torch.float32, torch.bfloat16, table.dtype}:
        raise TypeError(
            f"{function}: moments are {' and '.join(map(str, kinds))}; both must be float32, "
            "or both bfloat16"
        )
    tensors = [table, *moments]
    if rows is not None and gradient is not None:
        _dimensions(function, "rows", rows, 1, "(R,)")
        if rows.dtype != torch.int64:
            raise TypeError(f"{function}: rows are {rows.dtype}, and must be torch.int64")
        _floating(function, "gradient", gradient)
        _shape(
            function, "gradient", gradient, (len(rows), table.shape[1]), "a row for each of rows"
        )
        if gradient.dtype not in (torch.float32, table.dtype):
            raise TypeError(
                f"{function}: gradient is {gradient.dtype}, and must be float32 or the table's type"
            )
        tensors += [rows, gradient]
    _one_device(function, *tensors)


def check_grouped(x: Tensor, weights: Tensor, ends: Tensor) -> None:
    """(T, D) x, (E, D, F) weights, (E,) ends."""
    function = "grouped_matmul"
    _floating(function, "x", x)
    _floating(function, "weights", weights)
    _dimensions(function, "weights", weights, 3, "(E, D, F)")
    _shape(function, "x", x, (len(x), weights.shape[1]), "as wide as the weights take")
    _shape(function, "ends", ends, (len(weights),), "one for each expert")
    if x.dtype != weights.dtype:
        raise TypeError(f"{function}: x is {x.dtype}, and weights are {weights.dtype}")
    if ends.dtype not in (torch.int32, torch.int64):
        raise TypeError(f"{function}: ends are {ends.dtype}, and must be int32 or int64")
    _one_device(function, x, weights, ends)


def check_indices(idx: Tensor, n_rows: int) -> None:
    """Raises ValueError for an index outside of the table's n_rows, if asked to look."""
    if not _looks() or not idx.numel():
        return
    low, high = (int(bound) for bound in idx.aminmax())
    if low < 0 or high >= n_rows:
        wrong = low if low < 0 else high
        raise ValueError(f"index {wrong} is outside of the table's {n_rows} rows")


def check_ends(ends: Tensor, n_rows: int) -> None:
    """Raises ValueError for ends that do not ascend to the last of x's n_rows, if asked to look."""
    if not _looks() or not ends.numel():
        return
    if int(ends[0]) < 0 or bool((ends.diff() < 0).any()) or int(ends[-1]) != n_rows:
        raise ValueError(
            f"grouped_matmul: ends {ends.tolist()} must ascend from 0 to x's {n_rows} rows"
        )


def _looks() -> bool:
    return os.environ.get("EXPERIMENTS_CHECK_INDICES", "") not in ("", "0")


def _floating(function: str, name: str, tensor: Tensor) -> None:
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
        raise TypeError(f"{function}: {name} is {kind}, and must be a tensor of real numbers")


def _dimensions(function: str, name: str, tensor: Tensor, n: int, shape: str) -> None:
    if tensor.dim() != n:
        raise ValueError(f"{function}: {name} is {tuple(tensor.shape)}, and must be {shape}")


def _shape(function: str, name: str, tensor: Tensor, shape: Sequence[int], why: str) -> None:
    if tensor.shape != shape:
        raise ValueError(
            f"{function}: {name} is {tuple(tensor.shape)}, and must be {tuple(shape)}, {why}"
        )


def _one_device(function: str, first: Tensor, *others: Tensor) -> None:
    for other in others:
        if other.device != first.device:
            raise ValueError(
                f"{function}: its tensors are on {first.device} and {other.device}, and must be on "
                "one device"
            )
