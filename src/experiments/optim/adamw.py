"""AdamW (Loshchilov 2019, arXiv:1711.05101, Alg. 2), by torch's fused kernel.

m = beta1 m + (1 - beta1) g          v = beta2 v + (1 - beta2) g²
w = w - lr weight_decay w - lr m / (1 - beta1^t) / (sqrt(v / (1 - beta2^t)) + eps)
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.optim.optimizer import OptimizerConfig, State, Trained

MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True, kw_only=True)
class AdamWConfig(OptimizerConfig):
    """AdamW of all parameters; of tables with gradients of rows it is another one (row_adamw.py).

    Its settings, beta1, beta2 and eps, are every config's: AdamW steps what others don't take.
    """

    elementwise = True

    def takes(self, parameter: Trained) -> bool:
        return True

    def settings(self, parameter: Trained) -> dict[str, Any]:
        return {
            **super().settings(parameter),
            "betas": (self.beta1, self.beta2),
            "eps": self.eps * parameter.scale.eps,
        }

    def moments(self, parameter: Tensor) -> State:
        step = torch.zeros((), device=parameter.device)  # where the fused kernel wants it
        return {"step": step, **{name: torch.zeros_like(parameter) for name in MOMENTS}}

    def step(
        self, parameters: Sequence[Tensor], states: Sequence[State], group: Mapping[str, Any]
    ) -> None:
        """torch's own two calls: it spends five times as long on what it looks up around them."""
        kinds: dict[tuple[torch.device, torch.dtype], list[int]] = {}
        for i, parameter in enumerate(parameters):
            kinds.setdefault((parameter.device, parameter.dtype), []).append(i)
        for (device, _), members in kinds.items():
            steps = [states[i]["step"] for i in members]
            if device.type == "cpu":  # of a number torch would make a tensor for each of them
                torch._foreach_add_(steps, _one(), alpha=1)
            else:
                torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                [parameters[i] for i in members],
                [g for i in members if (g := parameters[i].grad) is not None],
                [states[i]["exp_avg"] for i in members],
                [states[i]["exp_avg_sq"] for i in members],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )


@functools.cache
def _one() -> Tensor:
    return torch.ones((), device="cpu")
