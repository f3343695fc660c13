"""Lion: each weight steps by the sign of an interpolation of gradient and momentum.

Chen 2023, arXiv:2302.06675, Algorithm 2:

    c = beta1 m + (1 - beta1) g
    w = w - lr (sign(c) + weight_decay w)
    m = beta2 m + (1 - beta2) g

Not as there: lr is lion_lr times the rate that AdamW would have, and weight_decay that of AdamW
over lion_lr, so that their product stays (§5 has rates 3 to 10 times lower, and decay as many times
higher). Expert tables stay with AdamW: a row that a step does not retrieve would move by a whole
step in each of them, for a sign has no size that fades.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.config.constraints import BelowOne, Positive
from experiments.optim.optimizer import OptimizerConfig, State, Trained


@dataclass(frozen=True, kw_only=True)
class LionConfig(OptimizerConfig):
    """Lion of all parameters but tables, which are AdamW's.

    lion_lr: times the rate. lion_beta1, lion_beta2: of the step's direction, and of the momentum.
    """

    lion_lr: Positive
    lion_beta1: BelowOne
    lion_beta2: BelowOne

    def takes(self, parameter: Trained) -> bool:
        return parameter.kind != "table"

    def settings(self, parameter: Trained) -> dict[str, Any]:
        """Steps have the size of the rate, as Adam's, so the parametrization's factors are its."""
        found = super().settings(parameter)
        lr, decay = found["lr"] * self.lion_lr, found["weight_decay"] / self.lion_lr
        return {**found, "lr": lr, "weight_decay": decay}

    def moments(self, parameter: Tensor) -> State:
        return {"exp_avg": torch.zeros_like(parameter)}

    def step(
        self, parameters: Sequence[Tensor], states: Sequence[State], group: Mapping[str, Any]
    ) -> None:
        lr = float(group["lr"])
        for parameter, state in zip(parameters, states, strict=True):
            gradient, momentum = parameter.grad, state["exp_avg"]
            assert gradient is not None
            update = momentum.lerp(gradient, 1 - self.lion_beta1).sign_()
            parameter.mul_(1 - lr * group["weight_decay"]).add_(update, alpha=-lr)
            momentum.lerp_(gradient, 1 - self.lion_beta2)
