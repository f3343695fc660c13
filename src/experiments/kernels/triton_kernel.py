"""Kernels in Triton, for GPUs; interpreted, and slow, on CPUs for the tests."""

from importlib.util import find_spec

import torch
from torch import Tensor

from experiments.kernels.interface import AdamWStep, Segments
from experiments.kernels.torch_kernels import TorchKernel

_INSTALLED = find_spec("triton") is not None
if _INSTALLED:  # select.py imports this module where no Triton may be
    from experiments.kernels import triton_adamw, triton_gather, triton_search, triton_sums


def why_not(device: str) -> str | None:
    """Reason why Triton can't run on a device, in words; None if it can.

    Triton decides when a function is decorated whether it is compiled or interpreted.
    """
    if not _INSTALLED:
        return "triton is not installed"
    from triton import JITFunction
    from triton import language as tl

    compiled = isinstance(tl.sum, JITFunction)
    if compiled != isinstance(triton_gather.dot_kernel, JITFunction):
        return "TRITON_INTERPRET was changed after triton was imported"
    if device == "cpu" and compiled:
        return "on a CPU it has to be interpreted: set TRITON_INTERPRET=1 before triton is imported"
    return None


class Triton:
    """Kernel `triton`."""

    name, variant, segment_dtype = "triton", "", torch.int64

    def dot(self, x: Tensor, table: Tensor, idx: Tensor) -> Tensor:
        """A program a token and block of its rows."""
        return triton_gather.dot(x, table, idx)

    def weighted_sum(self, table: Tensor, idx: Tensor, weights: Tensor) -> Tensor:
        """A program a token and block of columns."""
        return triton_gather.weighted_sum(table, idx, weights)

    def sort(self, idx: Tensor, n_rows: int, distinct: bool = True) -> Segments:
        """torch's radix sort on 32-bit keys."""
        if distinct:
            return TorchKernel().sort(idx, n_rows)
        return triton_sums.sort_all(idx, n_rows)

    def row_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """A program a distinct row and block of columns."""
        shape = (len(segments.rows), values.shape[1])
        out = torch.empty(shape, dtype=dtype, device=values.device)
        triton_sums.sums_into(out, values, segments, weights, by_row=False)
        return out

    def table_sums(
        self, values: Tensor, segments: Segments, weights: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """Zeros, and row_sums written into them; of all rows, the sums alone."""
        shape = (segments.n_rows, values.shape[1])
        every = len(segments.rows) == segments.n_rows
        make = torch.empty if every else torch.zeros
        out = make(shape, dtype=dtype, device=values.device)
        triton_sums.sums_into(out, values, segments, weights, by_row=True)
        return out

    def search(
        self, queries: Tensor, sub_keys: Tensor, n_first: int, top_k: int, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Matrix products, then a program a row and a program a query."""
        return triton_search.search(queries, sub_keys, n_first, top_k, bias)

    def row_adamw(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        rows: Tensor,
        gradient: Tensor,
        step: AdamWStep,
    ) -> None:
        """A program a row and block of columns."""
        triton_adamw.step_rows(table, moments, rows, gradient, step)

    def row_adamw_of_sums(
        self,
        table: Tensor,
        moments: tuple[Tensor, Tensor],
        values: Tensor,
        segments: Segments,
        weights: Tensor,
        step: AdamWStep,
    ) -> None:
        """row_adamw whose programs sum the pairs of their rows."""
        triton_adamw.step_rows_of_sums(table, moments, values, segments, weights, step)
