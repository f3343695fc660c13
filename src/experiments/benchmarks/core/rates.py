"""Rates that a floor is made of, measured on this machine: memory, random rows, products."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.core.shapes import Settings, Shape, type_name
from experiments.benchmarks.core.timing import best_seconds
from experiments.kernels.interface import Kernel
from experiments.kernels.products import makers
from experiments.kernels.select import resolve_kernel

SQUARE = {"cpu": 2048, "cuda": 8192}  # of the product whose rate is the optimistic one
COPY_BYTES = 2**29  # beyond any cache
_TILE = 256  # tokens whose scores are made at a time: they needn't leave the cache


@dataclass(frozen=True, kw_only=True)
class Rates:
    """Measured, the best of repeats: bytes/s (read and written) and FLOP/s.

    rows: of a kernel reading random rows. query: the products of forward, of the input's
    gradient, of the weight's, at the layer's own sizes. keys: likewise. Products are those of
    whoever makes them fastest here (kernels/products.py).
    """

    copy: float
    rows: float
    square: float
    square_keys: float
    query: tuple[float, ...]
    keys: float
    query_type: str
    keys_type: str

    def or_better(self, other: "Rates") -> "Rates":
        """Better of each rate."""
        names = ("copy", "rows", "square", "square_keys", "keys")
        better: dict[str, Any] = {n: max(getattr(self, n), getattr(other, n)) for n in names}
        return replace(self, query=tuple(map(max, self.query, other.query)), **better)


def measure(shape: Shape, table: Tensor, settings: Settings) -> Rates:
    """Takes some seconds."""
    device = settings.device
    query_type = torch.float32 if settings.table_dtype == torch.float32 else torch.bfloat16
    kernel = resolve_kernel("auto", device, table.dtype)
    assert kernel is not None
    keys_type = torch.bfloat16 if device == "cuda" or has_bf16_products() else torch.float32
    return Rates(
        copy=copy_rate(device),
        rows=max(gather_rates(shape, table.detach(), kernel, device).values()),
        square=square_rate(device, query_type),
        square_keys=square_rate(device, keys_type),
        query=_query_rates(shape, device, query_type),
        keys=_keys_rate(shape, device, keys_type),
        query_type=type_name(query_type),
        keys_type=type_name(keys_type),
    )


def has_bf16_products() -> bool:
    """Whether this processor multiplies bfloat16 by itself; Linux says so."""
    path = Path("/proc/cpuinfo")
    flags = path.read_text() if path.exists() else ""
    return "avx512_bf16" in flags or "amx_bf16" in flags


def copy_rate(device: str) -> float:
    """Bytes/s of a large copy, read and written."""
    source = torch.ones(COPY_BYTES // 4, device=device)
    target = torch.empty_like(source)
    return 2 * COPY_BYTES / best_seconds(lambda: target.copy_(source), device)


def gather_rates(shape: Shape, table: Tensor, kernel: Kernel, device: str) -> dict[str, float]:
    """Bytes/s of a kernel's two gathers, dot and sum, of the shape's pairs, rows of a table (N, D)
    of any width drawn evenly; other ones in each of four calls, so that a large table's are not
    found in the cache.
    """
    tall = (shape.n_tokens, shape.n_heads * shape.top_k)
    idx = cycle([torch.randint(shape.n_experts, tall, device=device) for _ in range(4)])
    weights = torch.ones(tall, device=device)
    x = torch.randn(shape.n_tokens, table.shape[1], device=device)
    calls: dict[str, Callable[[], Tensor]] = {
        "dot": lambda: kernel.dot(x, table, next(idx)),
        "sum": lambda: kernel.weighted_sum(table, next(idx), weights),
    }
    n_bytes = shape.n_pairs * table.shape[1] * table.itemsize
    return {name: n_bytes / best_seconds(call, device) for name, call in calls.items()}


def square_rate(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large square product; of float32, in the precision that torch is set to."""
    n = SQUARE[device]
    return _product_rate(n, n, n, device, dtype)


def _product_rate(m: int, k: int, n: int, device: str, dtype: torch.dtype) -> float:
    calls = makers(m, k, n, device=device, dtype=dtype).values()
    return 2 * m * k * n / min(best_seconds(call, device) for call in calls)


def _query_rates(shape: Shape, device: str, dtype: torch.dtype) -> tuple[float, ...]:
    t, d, width = shape.n_tokens, shape.d_model, shape.n_heads * shape.d_key
    sizes = ((t, d, width), (t, width, d), (width, t, d))
    return tuple(_product_rate(*size, device, dtype) for size in sizes)


def _keys_rate(shape: Shape, device: str, dtype: torch.dtype) -> float:
    n, half, batch = min(shape.n_tokens, _TILE), shape.d_key // 2, 2 * shape.n_heads
    if device == "cuda":
        n = shape.n_tokens  # a tile would not fill it
    queries = torch.randn(batch, n, half, device=device).to(dtype)
    sub_keys = torch.randn(batch, shape.n_sub, half, device=device).to(dtype)
    best = best_seconds(lambda: queries @ sub_keys.transpose(1, 2), device)
    together = 2 * batch * n * half * shape.n_sub / best
    return max(together, _product_rate(n, half, shape.n_sub, device, dtype))
