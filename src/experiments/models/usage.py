"""How evenly experts are used: the two measures of He 2024 (arXiv:2407.04153), Table 2."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class UsageSummary:
    """usage: the share of experts with any weight, 0 to 1. unevenness: KL(z || uniform), nats."""

    usage: float
    unevenness: float


class ExpertUsage:
    """Sums each expert's router score over a data set: z'_i = sum_x g_i(x), scores not counts.

    `weight` is (n_experts,) float64 on the CPU.
    """

    def __init__(self, n_experts: int) -> None:
        self.weight = torch.zeros(n_experts, dtype=torch.float64)

    def add(self, indices: Tensor, gates: Tensor) -> None:
        """indices and gates of one shape; gates are the non-negative router scores."""
        flat = gates.detach().reshape(-1).to("cpu", torch.float64)
        self.weight.index_add_(0, indices.detach().reshape(-1).cpu(), flat)

    def summary(self) -> UsageSummary:
        """usage = #{z_i != 0} / N and unevenness = log N + sum z_i log z_i, with z = z'/||z'||_1.

        A layer that routed nothing has usage 0 and, by convention, unevenness log N.
        """
        n = self.weight.numel()
        total = self.weight.sum()
        if total <= 0:
            return UsageSummary(usage=0.0, unevenness=float(torch.log(torch.tensor(float(n)))))
        z = self.weight / total
        entropy = -torch.special.entr(z).sum()  # entr(z) = -z log z, 0 at 0
        log_n = torch.log(torch.tensor(float(n), dtype=torch.float64))
        return UsageSummary(
            usage=float((z != 0).double().mean()), unevenness=max(0.0, float(log_n + entropy))
        )
