"""Batch norm over the tokens of all processes that train a model together."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from experiments.kernels.uncompiled import uncompiled


class BatchNorm(nn.BatchNorm1d):
    """BatchNorm1d over the tokens of all ranks. torch's SyncBatchNorm is for GPUs only."""

    frozen = False  # True: the running statistics as they are, in training too

    def forward(self, x: Tensor) -> Tensor:
        """(T, features) to the same."""
        if self.frozen:
            kept = (self.running_mean, self.running_var, self.weight, self.bias)
            return F.batch_norm(x, *kept, eps=self.eps)
        ranks = torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1
        if not self.training or ranks == 1:
            return super().forward(x)
        return self._over_ranks(x, ranks)

    @uncompiled  # in compiled graphs too: ranks wait for each other, in both passes
    def _over_ranks(self, x: Tensor, ranks: int) -> Tensor:
        n = len(x) * ranks  # each rank has as many tokens
        mean = _SumOverRanks.apply(x.sum(0)) / n
        centred = x - mean
        variance = _SumOverRanks.apply(centred.square().sum(0)) / n
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            assert self.num_batches_tracked is not None
            assert self.momentum is not None
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (n / (n - 1)), self.momentum)
            self.num_batches_tracked += 1
        scaled = centred * (variance + self.eps).rsqrt()
        return scaled * self.weight + self.bias if self.affine else scaled


class _SumOverRanks(torch.autograd.Function):
    """Sum over the ranks, whose gradient is the sum of the ranks' gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        total = x.clone()
        torch.distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return _SumOverRanks.apply(grad)
