"""Scheduler of a run's learning rates."""

from typing import Any

from torch.optim.lr_scheduler import LambdaLR


class Rates(LambdaLR):
    """torch's LambdaLR with one factor for all groups, and its state. Its own step warns of orders
    of calls that a training does not have, and takes ten times as long.
    """

    def step(self, epoch: Any = None) -> None:
        """Rates of the next step."""
        if self._step_count == 0:  # makes all that is part of the state
            super().step()
            return
        self._step_count += 1
        self.last_epoch += 1
        factor, groups = self.lr_lambdas[0](self.last_epoch), self.optimizer.param_groups
        for group, rate in zip(groups, self.base_lrs, strict=True):
            group["lr"] = rate * factor
        self._last_lr = [group["lr"] for group in groups]
