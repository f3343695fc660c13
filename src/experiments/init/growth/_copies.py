"""Entries that are there several times, and the numbers for which they can be."""

import torch
from torch import Tensor


def check_multiple(n_experts: int, unit: int, what: str) -> None:
    """Raises ValueError unless n_experts is a multiple of `unit`, which is `what`."""
    if n_experts % unit:
        lower = n_experts // unit * unit
        raise ValueError(
            f"n_experts={n_experts} must be a multiple of {unit}, {what}; "
            f"nearest: {lower}, {lower + unit}"
        )


def add_noise(table: Tensor, n_copies: int, noise: float, generator: torch.Generator) -> None:
    """To (n_copies * n, ...) in place, in total nothing; else copies would stay equal. noise: in
    root mean squares of an entry.
    """
    copies = table.unflatten(0, (n_copies, -1))
    drawn = torch.randn(copies.shape, generator=generator).to(table)
    size = table.float().square().mean().sqrt()
    copies += noise * size * (drawn - drawn.mean(0))
