"""Triton's row AdamW and its stochastic rounding against float64, written out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.gpu.check import (
    FLOAT32,
    Deviation,
    drawn,
    name_of,
    of_each,
    sizes,
    sums_in_float64,
    triton_for,
)
from experiments.kernels.interface import AdamWStep


def step_of(**changes: Any) -> AdamWStep:
    """The step of the checks."""
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
    return AdamWStep(**{**numbers, **changes})


def state_of(
    n: int, width: int, types: tuple[torch.dtype, torch.dtype], device: str
) -> list[Tensor]:
    """A table and its two moments."""
    draws = (torch.randn, torch.randn, torch.rand)
    wanted = (types[0], types[1], types[1])
    return [
        draw(n, width, device=device).to(dtype) for draw, dtype in zip(draws, wanted, strict=True)
    ]


def adamw_in_float64(
    state: Sequence[Tensor], rows: Tensor, gradient: Tensor, step: AdamWStep
) -> list[Tensor]:
    """The given rows' weights and moments after a step (Loshchilov 2019, arXiv:1711.05101)."""
    weight, mean, square = (t[rows].double() for t in state)
    g = gradient.double()
    mean = step.beta1 * mean + (1 - step.beta1) * g
    square = step.beta2 * square + (1 - step.beta2) * g * g
    corrected_mean = mean / (1 - step.beta1**step.step)
    corrected_square = square / (1 - step.beta2**step.step)
    weight = weight - step.lr * step.weight_decay * weight
    weight = weight - step.lr * corrected_mean / (corrected_square.sqrt() + step.eps)
    return [weight, mean, square]


def rounded_by_noise(x: Tensor, rows: Tensor, step: int, salt: int) -> Tensor:
    """x (R, D) float32 as bfloat16: 16 bits of a hash of step, salt and place are added first.

    In int64, modulo 2**32 after each product.
    """
    place = rows.unsqueeze(1) * x.shape[1] + torch.arange(x.shape[1], device=x.device)
    h = (place * 0x9E3779B1 + step * 0x85EBCA6B + salt * 0x27D4EB2F) & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
    h = ((h ^ (h >> 15)) * 0x046CA68B) & 0xFFFFFFFF
    noise = (h ^ (h >> 16)) & 0xFFFF
    bits = x.contiguous().view(torch.int32).long() + noise
    return (bits & ~0xFFFF).int().view(torch.float32).to(torch.bfloat16)


def _of_step(
    results: Sequence[Tensor],
    before: Sequence[Tensor],
    rows: Tensor,
    gradient: Tensor,
    step: AdamWStep,
) -> list[Deviation]:
    """Of stepped rows: float32 to its arithmetic. bfloat16 to one of the two neighbours, and to
    the very one that the noise says but where a last bit of float32 decides, which is seldom: with
    other noise half of the entries would differ. Of other rows: none.
    """
    found = []
    wanted = adamw_in_float64(before, rows, gradient, step)
    for salt, (name, now, slow) in enumerate(zip(("weight", "mean", "square"), results, wanted)):
        stepped = now[rows]
        if now.dtype == torch.bfloat16:
            room = 2**-7 * slow.abs() + FLOAT32
            error = float(((stepped.double() - slow).abs() / room).max())
            found.append(Deviation(what=f"{name}, of a neighbour", error=error, allowed=1))
            exact = rounded_by_noise(slow.float(), rows, step.step, salt)
            share = float((stepped != exact).double().mean())
            found.append(Deviation(what=f"{name}, rounded otherwise", error=share, allowed=0.01))
        else:
            found.append(of_each(name, stepped, slow))
        rest = torch.ones(len(now), dtype=torch.bool, device=now.device)
        rest[rows] = False
        moved = int((now[rest] != before[salt][rest]).sum())
        found.append(Deviation(what=f"{name}, entries of other rows", error=moved, allowed=0))
    return found


@dataclass(frozen=True, kw_only=True)
class RowAdamW:
    """A step of some rows by their gradients."""

    n: int
    width: int
    rows: tuple[int, ...]
    types: tuple[torch.dtype, torch.dtype]
    kernel: str = "row AdamW"

    @property
    def case(self) -> str:
        table, moments = map(name_of, self.types)
        return f"N={self.n} D={self.width} {table}, moments {moments}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        rows = torch.tensor(self.rows, device=device)
        gradient = torch.randn(len(rows), self.width, device=device)
        return state_of(self.n, self.width, self.types, device), rows, gradient

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        state, rows, gradient = inputs
        table, *moments = (t.clone() for t in state)
        triton_for(table).row_adamw(table, tuple(moments), rows, gradient, step_of())
        return [table, *moments]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        state, rows, gradient = inputs
        return _of_step(results, state, rows, gradient, step_of())


@dataclass(frozen=True, kw_only=True)
class RowAdamWOfSums:
    """A step of the retrieved rows by sums that the kernel makes itself."""

    shape: tuple[int, int, int, int]
    types: tuple[torch.dtype, torch.dtype]
    kernel: str = "row AdamW of sums"

    @property
    def case(self) -> str:
        table, moments = map(name_of, self.types)
        return f"{sizes(self.shape)} {table}, moments {moments}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        x, _, idx, weights = drawn(self.shape, device, torch.float32)
        return state_of(self.shape[3], self.shape[2], self.types, device), x, idx, weights

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        state, x, idx, weights = inputs
        table, *moments = (t.clone() for t in state)
        kernel = triton_for(table)
        segments = kernel.sort(idx, self.shape[3])
        kernel.row_adamw_of_sums(table, tuple(moments), x, segments, weights, step_of())
        return [table, *moments]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        state, x, idx, weights = inputs
        rows = idx.unique()
        gradient = sums_in_float64(x, idx, weights, self.shape[3])[rows]
        return _of_step(results, state, rows, gradient, step_of())


@dataclass(frozen=True, kw_only=True)
class Rounding:
    """Stores in bfloat16 to the bit: with betas of 0 the moments are g and g * g, exactly."""

    step: int
    kernel: str = "stochastic rounding"

    @property
    def case(self) -> str:
        return f"step {self.step}"

    def inputs(self, device: str) -> tuple[Any, ...]:
        rows = torch.tensor([1, 2, 70], device=device)
        return rows, torch.randn(3, 40, device=device)

    def run(self, inputs: tuple[Any, ...]) -> list[Tensor]:
        rows, g = inputs
        table, mean, square = (
            torch.zeros(71, 40, device=g.device, dtype=torch.bfloat16) for _ in range(3)
        )
        plain = step_of(beta1=0.0, beta2=0.0, weight_decay=0.0, step=self.step)
        triton_for(table).row_adamw(table, (mean, square), rows, g, plain)
        return [mean[rows], square[rows]]

    def deviations(self, inputs: tuple[Any, ...], results: Sequence[Tensor]) -> list[Deviation]:
        rows, g = inputs
        exact = [rounded_by_noise(x, rows, self.step, salt) for salt, x in ((1, g), (2, g * g))]
        return [
            Deviation(what=f"{name} to the bit", error=float((a != b).sum()), allowed=0)
            for name, a, b in zip(("g", "g * g"), results, exact, strict=True)
        ]
