"""A check of a kernel, and how far a result may be from its reference in float64."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.kernels.interface import Kernel
from experiments.kernels.select import resolve_kernel

# of the largest entry: a result of float32 arithmetic; a gradient stored in bfloat16 loses besides
# at most the last of 8 bits (half of it on a GPU; the interpreter does not round but truncates)
FLOAT32, BFLOAT16 = 1e-5, 2**-7 + 1e-5


@dataclass(frozen=True, kw_only=True)
class Deviation:
    """How far one result is from the reference, and how far it may be."""

    what: str
    error: float
    allowed: float

    @property
    def within(self) -> bool:
        """A NaN is not."""
        return self.error <= self.allowed


Inputs = tuple[Any, ...]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One case of one kernel; case: sizes and types in a few words.

    inputs(device): from torch's global generator. run(*inputs): what the kernel makes of them,
    which stay as they are. deviations(results, *inputs): of each of the results.
    """

    kernel: str
    case: str
    inputs: Callable[[str], Inputs]
    run: Callable[..., list[Tensor]]
    deviations: Callable[..., list[Deviation]]


def of_largest(what: str, fast: Tensor, slow: Tensor) -> Deviation:
    """Largest difference over the largest entry, which is what rounding errors scale with."""
    allowed = BFLOAT16 if fast.dtype == torch.bfloat16 else FLOAT32
    if fast.shape != slow.shape:
        return Deviation(what=f"{what}, of shape {tuple(fast.shape)}", error=torch.nan, allowed=0)
    largest = float(slow.abs().max())
    furthest = float((fast.double() - slow).abs().max())
    # where all is zero, so must the result be
    error = furthest / largest if largest else furthest * float("inf") if furthest else 0.0
    return Deviation(what=what, error=error, allowed=allowed)


def of_each(what: str, fast: Tensor, slow: Tensor) -> Deviation:
    """Largest difference, each over 1 + its entry, as torch.testing has it."""
    error = ((fast.double() - slow).abs() / (1 + slow.abs())).max()
    return Deviation(what=what, error=float(error), allowed=FLOAT32)


def of_neighbour(what: str, fast: Tensor, slow: Tensor) -> Deviation:
    """Largest difference of bfloat16 from one of its two neighbours, in parts of their gap."""
    gap = 2**-7 * slow.abs() + FLOAT32
    error = float(((fast.double() - slow).abs() / gap).max())
    return Deviation(what=f"{what}, of a neighbour", error=error, allowed=1)


def triton_for(table: Tensor) -> Kernel:
    """Implementation; a ValueError says why it can't be had."""
    kernel = resolve_kernel("triton", table.device.type, table.dtype)
    assert kernel is not None
    return kernel


def drawn(shape: tuple[int, ...], device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """x (T, D), a table (N, D), indices and weights (T, J), of a shape T, J, D, N."""
    n_tokens, n_columns, width, n = shape
    x = torch.randn(n_tokens, width, device=device)
    table = torch.randn(n, width, device=device).to(dtype)
    idx = torch.randint(0, n, (n_tokens, n_columns), device=device)
    weights = torch.randn(n_tokens, n_columns, device=device)
    return x, table, idx, weights


def sizes(shape: tuple[int, ...]) -> str:
    """Shape in words."""
    return "T={} J={} D={} N={}".format(*shape)


def sums_in_float64(values: Tensor, idx: Tensor, weights: Tensor, n: int) -> Tensor:
    """(T, D), (T, J), (T, J) to (N, D): each row's sum of weights_tj values_t."""
    pairs = weights.double().unsqueeze(-1) * values.double().unsqueeze(1)
    sums = torch.zeros(n, values.shape[1], dtype=torch.float64, device=values.device)
    return sums.index_add_(0, idx.flatten(), pairs.flatten(0, 1))
