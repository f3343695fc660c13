"""Kernels in C++ (csrc/), for CPUs: built on first use, at the level fastest on this one."""

import ctypes
import os
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.kernels.build import BuildError, load, ordered_levels, processor_levels
from experiments.kernels.interface import AdamWStep, Segments
from experiments.kernels.product_keys import candidate_pairs
from experiments.kernels.workspace import WORKSPACE

_CHUNK = 1024  # csrc/segments.cpp
_TILE = 48  # csrc/search.cpp
MAX_THREADS = 64  # csrc/segments.cpp
_MOST_PAIRS = 2**31  # they are counted in int32


@lru_cache(maxsize=1)
def load_cpp() -> "Cpp | None":
    """Kernel for this processor, or None, with one warning, where it can't be built.

    EXPERIMENTS_KERNEL_LEVEL names another level than the fastest. Raises ValueError for
    one that it doesn't have.
    """
    try:
        level = asked_level()
        return Cpp(*load_best([level] if level else processor_levels()))
    except BuildError as error:
        warnings.warn(
            f"kernel=cpp can't be had, so kernel=torch runs, several times slower: {error}",
            stacklevel=2,
        )
        return None


def asked_level() -> str | None:
    """EXPERIMENTS_KERNEL_LEVEL; None where it is not set. Raises ValueError for one that this
    processor doesn't have, and BuildError.
    """
    level = os.environ.get("EXPERIMENTS_KERNEL_LEVEL") or None
    if level is not None:
        _check_level(level)
    return level


@lru_cache(maxsize=8)  # the points of a sweep ask alike
def _check_level(level: str) -> None:
    known = processor_levels()
    if level not in known:
        raise ValueError(
            f"EXPERIMENTS_KERNEL_LEVEL={level} is not one of this processor's: {', '.join(known)}"
        )


def load_best(known: Sequence[str]) -> tuple[ctypes.CDLL, str]:
    """Library of the last of these levels that the compiler knows, and its name. Raises
    BuildError.
    """
    for level in reversed(known):
        if level in levels(library := load([level])):
            return library, level
    raise BuildError(f"the compiler knows none of {', '.join(known)}")


def levels(lib: ctypes.CDLL) -> list[str]:
    """Levels that this library has and this processor can run, the fastest last."""
    return [level for level in ordered_levels(lib) if hasattr(lib, f"dot_{level}")]


class Cpp:
    """Kernel `cpp` at one level: base, avx2, avx512, avx512_bf16 or amx; by default the fastest.

    float32 activations, float32 or bfloat16 tables; fewer than 2**31 pairs.
    """

    name, segment_dtype = "cpp", torch.int32

    def __init__(self, lib: ctypes.CDLL, level: str | None = None) -> None:
        self.library, self.level = lib, level or levels(lib)[-1]
        self.variant = self.level
        self._functions: dict[str, Callable[..., None]] = {}
        for name in ("dot", "weighted_sum", "sort", "sums", "adamw", "search"):
            function = getattr(lib, f"{name}_{self.level}")
            function.restype = None
            self._functions[name] = function

    def dot(self, x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
        """(T, D), (N, D), (T, J) to (T, J)."""
        out = WORKSPACE.empty(idx.shape, x.dtype)
        shape = (*idx.shape, table.shape[1])
        self._call("dot", x, table, _is_bf16(table), idx, out, *shape, _threads())
        return out

    def weighted_sum(self, table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
        """(N, D), (T, J), (T, J) to (T, D)."""
        out = WORKSPACE.empty((len(idx), table.shape[1]), weights.dtype)
        shape = (*idx.shape, table.shape[1])
        self._call("weighted_sum", table, _is_bf16(table), idx, weights, out, *shape, _threads())
        return out

    def sort(self, idx: Tensor, n_rows: int, distinct: bool = True) -> Segments:
        """A counting sort."""
        n_pairs = idx.numel()
        if n_pairs >= _MOST_PAIRS:
            raise ValueError(f"kernel=cpp sorts fewer than 2**31 pairs, not {n_pairs}; use torch")
        most = min(n_pairs, n_rows)
        counts = WORKSPACE.empty((n_rows + 1,), torch.int32)
        rows = torch.empty(most, dtype=torch.int64)
        offsets = torch.empty(most + 1, dtype=torch.int32)
        order = WORKSPACE.empty((n_pairs,), torch.int32)
        found = torch.zeros(1, dtype=torch.int64)
        self._call("sort", idx, n_pairs, n_rows, counts, rows, offsets, order, found, _threads())
        n = int(found)
        return Segments(
            rows=rows[:n],
            offsets=offsets[: n + 1],
            order=order,
            n_rows=n_rows,
            n_columns=idx.shape[1],
        )

    def row_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """(R, D), in memory of the workspace."""
        return self._sums(values, segments, weights, dtype, whole=False)

    def table_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """(N, D), in memory of the workspace."""
        return self._sums(values, segments, weights, dtype, whole=True)

    def _sums(
        self,
        values: Tensor,
        segments: Segments,
        weights: Tensor,
        dtype: torch.dtype,
        whole: bool,
    ) -> Tensor:
        if not len(segments.rows):
            return torch.zeros(segments.n_rows if whole else 0, values.shape[1], dtype=dtype)
        n_out = segments.n_rows if whole else len(segments.rows)
        out = WORKSPACE.empty((n_out, values.shape[1]), dtype)
        self._call(
            "sums",
            values,
            weights,
            segments.order,
            segments.offsets,
            segments.n_columns,
            values.shape[1],
            segments.rows if whole else None,
            len(segments.rows),
            segments.n_rows,
            out,
            _is_bf16(out),
            _scratch(segments, values.shape[1]),
            _threads(),
        )
        return out

    def search(
        self, queries: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Scores, screened in bfloat16 where the processor multiplies it, and the best of them."""
        n_tokens, n_heads = queries.shape[:2]
        n_groups, n_both, width = sub_keys.shape
        shape = (n_tokens, n_heads, top_k)
        scores = WORKSPACE.empty(shape, queries.dtype)
        first, second = (WORKSPACE.empty(shape, torch.int64) for _ in range(2))
        sets = (n_first, n_both - n_first)
        left, right, n_pairs = _pairs(top_k, *sets)
        padded = [-(-n // 64) * 64 for n in sets]
        kept = sum(min(top_k, n) for n in sets)
        packed = torch.empty(n_groups * sum(padded) * (width + 1))
        tile = _TILE * (max(padded) + 16 + (width + 1) // 2 + 2 * kept)
        floats = tile + 2 * (n_pairs + 16) + max(sets) + 64
        each = -(-floats * 4 // 64) * 64
        self._call(
            "search",
            queries,
            sub_keys,
            bias,
            n_tokens,
            n_heads,
            n_groups,
            *sets,
            width,
            packed,
            torch.empty(2 * n_groups),
            left,
            right,
            n_pairs,
            top_k,
            torch.empty(_threads() * each, dtype=torch.uint8),
            each,
            scores,
            first,
            second,
            _threads(),
        )
        return scores, first, second

    def row_adamw(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        rows: Tensor,
        gradient: Tensor,
        step: AdamWStep,
    ) -> None:
        """A row is read and written once."""
        self._adamw(table, moments, rows, step, (gradient, _is_bf16(gradient)), None)

    def row_adamw_of_sums(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        values: Tensor,
        segments: Segments,
        weights: Tensor,
        step: AdamWStep,
    ) -> None:
        """A row's sum is used while it is in the cache, and never written."""
        self._adamw(table, moments, segments.rows, step, (None, 0), (values, weights, segments))

    def _adamw(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        rows: Tensor,
        step: AdamWStep,
        gradient: tuple[Tensor | None, int],
        pairs: tuple[Tensor, Tensor, Segments] | None,
    ) -> None:
        if not len(rows):
            return
        decay = 1 - step.lr * step.weight_decay
        hyper = np.array(
            [
                step.step_size,
                step.beta1,
                step.beta2,
                step.eps,
                decay,
                step.root_correction,
                1 - step.beta1,  # in float64: a float32 of 0.9999 is 1.6e-8 off, 1.6e-4 of the rest
                1 - step.beta2,
            ],
            dtype=np.float32,
        )
        width = table.shape[1]
        sums: tuple[Any, ...] = (None, None, None, None, 1, None)
        if pairs is not None:
            values, weights, s = pairs
            scratch = _scratch(s, width)
            sums = (values, weights, s.order, s.offsets, s.n_columns, scratch)
        self._call(
            "adamw",
            table,
            _is_bf16(table),
            *moments,
            _is_bf16(moments[0]),
            width,
            step.first_column,
            step.whole_width(table),
            rows,
            len(rows),
            *gradient,
            *sums,
            torch.from_numpy(hyper),
            step.step,
            _threads(),
        )

    def _call(self, name: str, *arguments: Any) -> None:
        """Tensors go as pointers, None as a null one, all else as 64-bit integers."""
        self._functions[name](*map(_argument, arguments))


def _argument(value: Any) -> Any:
    if isinstance(value, Tensor):
        if not value.is_contiguous() or value.device.type != "cpu":
            raise ValueError(
                f"a C++ kernel reads contiguous memory of the CPU: {tuple(value.shape)} has "
                f"strides {value.stride()} on {value.device}; use the functions of ops.py"
            )
        return ctypes.c_void_p(value.data_ptr())
    if value is None:
        return ctypes.c_void_p(None)
    return ctypes.c_int64(value)


def _is_bf16(tensor: Tensor) -> int:
    return int(tensor.dtype == torch.bfloat16)


def _threads() -> int:
    return min(torch.get_num_threads(), MAX_THREADS)


def _scratch(segments: Segments, width: int) -> Tensor:
    n_chunks = len(segments.order) // _CHUNK + 1
    return torch.empty((_threads() + n_chunks) * width)


@lru_cache(maxsize=64)
def _pairs(top_k: int, n_first: int, n_second: int) -> tuple[Tensor, Tensor, int]:
    """Ranks of the candidates, with a vector of zeros behind, which are read and not used."""
    ranks = [
        torch.tensor([*r, *[0] * 16], dtype=torch.int32)
        for r in candidate_pairs(top_k, n_first, n_second)
    ]
    return ranks[0], ranks[1], len(ranks[0]) - 16
