"""Triton's row AdamW and its stochastic rounding against float64, written out."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from experiments.benchmarks.core.shapes import type_name
from experiments.gpu.check import (
    Check,
    Deviation,
    Inputs,
    drawn,
    of_each,
    of_neighbour,
    sizes,
    sums_in_float64,
    triton_for,
)
from experiments.kernels.interface import AdamWStep

STATE = ("weight", "mean", "square")
Types = tuple[torch.dtype, torch.dtype]  # of a table and of its moments


def make_step(**changes: Any) -> AdamWStep:
    """Step of the checks."""
    numbers = {"lr": 0.1, "beta1": 0.9, "beta2": 0.99, "eps": 1e-8, "weight_decay": 0.1, "step": 3}
    return AdamWStep(**{**numbers, **changes})


def make_state(n: int, width: int, types: Types, device: str) -> list[Tensor]:
    """A table and its two moments."""
    draws = (torch.randn, torch.randn, torch.rand)
    wanted = (types[0], types[1], types[1])
    return [
        draw(n, width, device=device).to(dtype) for draw, dtype in zip(draws, wanted, strict=True)
    ]


def adamw_in_float64(
    state: Sequence[Tensor], rows: Tensor, gradient: Tensor, step: AdamWStep
) -> list[Tensor]:
    """Given rows' weights and moments after a step (Loshchilov 2019, arXiv:1711.05101)."""
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
) -> list[Deviation]:
    """Of stepped rows: float32 to its arithmetic. bfloat16 to one of the two neighbours, and to
    the very one that the noise says but where a last bit of float32 decides, which is seldom: with
    other noise half of the entries would differ. Of other rows: none.
    """
    found, step = [], make_step()
    wanted = adamw_in_float64(before, rows, gradient, step)
    for salt, (name, now, slow) in enumerate(zip(STATE, results, wanted)):
        stepped = now[rows]
        if now.dtype == torch.bfloat16:
            found.append(of_neighbour(name, stepped, slow))
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


def row_adamw(n: int, width: int, rows: Sequence[int], types: Types) -> Check:
    """A step of some rows by their gradients."""

    def inputs(device: str) -> Inputs:
        gradient = torch.randn(len(rows), width, device=device)
        return make_state(n, width, types, device), torch.tensor(rows, device=device), gradient

    def run(state: list[Tensor], chosen: Tensor, gradient: Tensor) -> list[Tensor]:
        table, mean, square = (t.clone() for t in state)
        triton_for(table).row_adamw(table, (mean, square), chosen, gradient, make_step())
        return [table, mean, square]

    return Check(
        kernel="row AdamW",
        case=f"N={n} D={width} {_names(types)}",
        inputs=inputs,
        run=run,
        deviations=_of_step,
    )


def row_adamw_of_sums(shape: tuple[int, int, int, int], types: Types) -> Check:
    """A step of the retrieved rows by sums that the kernel makes itself."""
    n, width = shape[3], shape[2]

    def inputs(device: str) -> Inputs:
        x, _, idx, weights = drawn(shape, device, torch.float32)
        return make_state(n, width, types, device), x, idx, weights

    def run(state: list[Tensor], x: Tensor, idx: Tensor, weights: Tensor) -> list[Tensor]:
        table, mean, square = (t.clone() for t in state)
        kernel = triton_for(table)
        segments = kernel.sort(idx, n)
        kernel.row_adamw_of_sums(table, (mean, square), x, segments, weights, make_step())
        return [table, mean, square]

    def deviations(
        results: Sequence[Tensor], state: list[Tensor], x: Tensor, idx: Tensor, weights: Tensor
    ) -> list[Deviation]:
        rows = idx.unique()
        return _of_step(results, state, rows, sums_in_float64(x, idx, weights, n)[rows])

    return Check(
        kernel="row AdamW of sums",
        case=f"{sizes(shape)} {_names(types)}",
        inputs=inputs,
        run=run,
        deviations=deviations,
    )


def rounding(step: int) -> Check:
    """Stores in bfloat16 to the bit: with betas of 0 the moments are g and g * g, exactly."""

    def run(rows: Tensor, g: Tensor) -> list[Tensor]:
        table, mean, square = (
            torch.zeros(71, 40, device=g.device, dtype=torch.bfloat16) for _ in range(3)
        )
        plain = make_step(beta1=0.0, beta2=0.0, weight_decay=0.0, step=step)
        triton_for(table).row_adamw(table, (mean, square), rows, g, plain)
        return [mean[rows], square[rows]]

    def deviations(results: Sequence[Tensor], rows: Tensor, g: Tensor) -> list[Deviation]:
        exact = [rounded_by_noise(x, rows, step, salt) for salt, x in ((1, g), (2, g * g))]
        return [
            Deviation(what=f"{name} to the bit", error=float((a != b).sum()), allowed=0)
            for name, a, b in zip(("g", "g * g"), results, exact, strict=True)
        ]

    return Check(
        kernel="stochastic rounding",
        case=f"step {step}",
        inputs=lambda device: (
            torch.tensor([1, 2, 70], device=device),
            torch.randn(3, 40, device=device),
        ),
        run=run,
        deviations=deviations,
    )


def _names(types: Types) -> str:
    table, moments = map(type_name, types)
    return f"{table}, moments {moments}"
