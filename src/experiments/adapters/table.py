"""Adapters of one linear map as a table of experts, as PEER's are.

An adapter's component j is a neuron without activation: it reads row j of down and writes row j of
up. So adapters one after the other are a table, and what PEER's kernels retrieve is a mixture of
them. Expert i is the pair (adapter i // rank, component i % rank), as of product keys.
"""

import torch
from torch import Tensor, nn

from experiments.adapters.lora_files import LowRank
from experiments.kernels.ops import PLAIN, Execution, gather_dot, gather_sum


class LoRATable(nn.Module):
    """x (T, d_in), experts and gates (T, J) to (T, d_out): sum_j gate_j (x . w_down_j) w_up_j.

    w_down (n_places * rank, d_in), w_up (n_places * rank, d_out). Place 0 is empty for good: it
    stands for the base. A lower rank is filled up with rows of zeros.
    """

    execution: Execution = PLAIN
    w_down: Tensor
    w_up: Tensor

    def __init__(self, d_in: int, d_out: int, *, rank: int, n_places: int) -> None:
        super().__init__()
        self.rank = rank
        self.register_buffer("w_down", torch.zeros(n_places * rank, d_in))
        self.register_buffer("w_up", torch.zeros(n_places * rank, d_out))

    def extend(self, n_places: int) -> None:
        """Room for so many adapters; rows that are there keep their numbers."""
        for name in ("w_down", "w_up"):
            old = getattr(self, name)
            new = old.new_zeros(n_places * self.rank, old.shape[1])
            new[: len(old)] = old
            setattr(self, name, new)

    def put(self, place: int, low_rank: LowRank | None) -> None:
        """Writes an adapter at its place, or with None clears the place."""
        rows = slice(place * self.rank, (place + 1) * self.rank)
        for table in (self.w_down, self.w_up):
            table[rows] = 0
        if low_rank is not None:
            rows = slice(rows.start, rows.start + len(low_rank.down))
            self.w_down[rows] = low_rank.down.to(self.w_down)
            self.w_up[rows] = low_rank.up.to(self.w_up)

    def at(self, place: int) -> LowRank:
        """Adapter at a place, with its rows of zeros."""
        rows = slice(place * self.rank, (place + 1) * self.rank)
        return LowRank(down=self.w_down[rows].clone(), up=self.w_up[rows].clone())

    def forward(self, x: Tensor, experts: Tensor, gates: Tensor) -> Tensor:
        experts = experts.contiguous()
        shared = self.execution.retrieved(experts, self.w_down)
        hidden = gather_dot(x, self.w_down, shared, self.execution)
        return gather_sum(self.w_up, shared, hidden * gates.to(hidden.dtype), self.execution)
