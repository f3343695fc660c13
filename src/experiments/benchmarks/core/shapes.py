"""Settings of a measurement: sizes, device, types."""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any

import torch

from experiments.benchmarks.core.timing import Contender, Timing, compare
from experiments.config.constraints import KernelName


@dataclass(frozen=True, kw_only=True)
class Settings:
    """device: cpu or cuda. kernels: ours, those asked for. table_dtype: of expert tables.

    With tables in bfloat16 everything runs under autocast, as training with them would, and as
    the rivals must to read them.
    """

    device: str
    rounds: int
    kernels: tuple[KernelName, ...]
    huge_pages: bool
    table_dtype: torch.dtype

    def autocast(self) -> AbstractContextManager[Any]:
        """Context of a forward pass."""
        if self.table_dtype == torch.float32:
            return nullcontext()
        return torch.autocast(self.device, dtype=torch.bfloat16)

    def compare(self, contenders: Sequence[Contender], label: str) -> tuple[Timing, ...]:
        """Timings of the contenders, over the rounds, on the device."""
        return compare(contenders, rounds=self.rounds, device=self.device, label=label)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "table_dtype": type_name(self.table_dtype)}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of one layer and its input. d_key is the width of a whole query, two sub-keys."""

    d_model: int
    n_experts: int
    n_tokens: int
    n_heads: int
    top_k: int
    d_key: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value < 1:
                raise ValueError(f"{name}={value} must be above 0")
        if self.n_sub**2 != self.n_experts:
            raise ValueError(
                f"--n-experts {self.n_experts} must be a perfect square; "
                f"nearest: {self.n_sub**2}, {(self.n_sub + 1) ** 2}"
            )
        if self.d_model % 2:
            raise ValueError(f"--d {self.d_model} must be even: the rivals halve it")
        if self.d_key % 2:
            raise ValueError(f"--d-key {self.d_key} must be even, half for each sub-key")
        if self.top_k > self.n_sub:
            raise ValueError(
                f"--top-k {self.top_k} must be at most {self.n_sub}, the square root of "
                f"--n-experts {self.n_experts}: the rivals take as many of each half"
            )

    @property
    def n_sub(self) -> int:
        """Sub-keys of each half."""
        return math.isqrt(self.n_experts)

    @property
    def n_pairs(self) -> int:
        """Retrieved rows of a table, repeats included: tokens * heads * top_k."""
        return self.n_tokens * self.n_heads * self.top_k

    def describe(self) -> str:
        return (
            f"d={self.d_model} N={self.n_sub}² T={self.n_tokens} "
            f"h={self.n_heads} k={self.top_k} d_key={self.d_key}"
        )


def type_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
