"""SOAP: Adam in the eigenbasis of Shampoo's two preconditioners.

Vyas 2024, arXiv:2409.11321, Algorithms 3 and 4. Of an (m, n) matrix with gradient G, whose bases
are Q_L (m, m) and Q_R (n, n):

    M = beta1 M + (1 - beta1) G              G' = Q_L^T G Q_R,  M' = Q_L^T M Q_R
    V = beta2 V + (1 - beta2) G'²            W = W - lr c Q_L (M' / (sqrt(V) + eps)) Q_R^T
    L = beta2 L + (1 - beta2) G G^T          R = beta2 R + (1 - beta2) G^T G
    every soap_every steps:                  Q_L = QR(L Q_L),  Q_R = QR(R Q_R)

Beside that, as in the authors' public code (github.com/nikhilvyas/SOAP):

- Adam's bias is corrected after t steps by c = sqrt(1 - beta2^t) / (1 - beta1^t), so eps is not;
- decay is decoupled, and of the weights that have stepped: W = W - lr weight_decay W;
- the first gradient makes L, R and their exact eigenbases, largest eigenvalue first, and moves
  nothing: in the basis of its own gradient all but the diagonal would be roundings over roundings;
- before a basis turns, its columns are sorted by the diagonal of Q^T L Q, largest first, and V
  with them. QR keeps the first columns' directions best, so these are to be the largest.

Not as there: stacks of experts step as batches of matrices, all is in the parameter's type, and
vectors, embedding, head, tables and keys are AdamW's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from experiments.config.constraints import AtLeast1, BelowOne, Positive
from experiments.optim.optimizer import OptimizerConfig, State, Trained


@dataclass(frozen=True, kw_only=True)
class SOAPConfig(OptimizerConfig):
    """SOAP of the backbone's maps and stacks of maps; embedding, head, tables, keys and vectors are
    AdamW's.

    soap_lr: times the rate. soap_every: steps between two turns of the bases. soap_beta1,
    soap_beta2: of both moments, and the second of the preconditioners too.
    """

    needs_roles = True
    soap_lr: Positive
    soap_beta1: BelowOne
    soap_beta2: BelowOne
    soap_every: AtLeast1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.parametrization != "sp":
            raise ValueError(
                f"parametrization={self.parametrization} with optim=soap, whose rates have no rule "
                "here for widths; set optim.parametrization=sp"
            )

    def takes(self, parameter: Trained) -> bool:
        return parameter.role is not None and parameter.role.is_map

    def settings(self, parameter: Trained) -> dict[str, Any]:
        found = super().settings(parameter)
        return {**found, "lr": found["lr"] * self.soap_lr}

    def moments(self, parameter: Tensor) -> State:
        *stack, m, n = parameter.shape
        return {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.zeros_like(parameter),
            **{name: parameter.new_zeros(*stack, m, m) for name in ("left", "left_basis")},
            **{name: parameter.new_zeros(*stack, n, n) for name in ("right", "right_basis")},
        }

    def step(
        self, parameters: Sequence[Tensor], states: Sequence[State], group: Mapping[str, Any]
    ) -> None:
        for parameter, state in zip(parameters, states, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            if state["step"] > 0:
                self._move(parameter, gradient, state, group)
            self._turn(gradient, state)
            state["step"] += 1

    def _move(
        self, parameter: Tensor, gradient: Tensor, state: State, group: Mapping[str, Any]
    ) -> None:
        n_steps, lr = int(state["step"]), float(group["lr"])  # moves, with this one
        left, right = state["left_basis"], state["right_basis"]
        first, second = state["exp_avg"], state["exp_avg_sq"]
        first.lerp_(gradient, 1 - self.soap_beta1)
        turned = left.mT @ gradient @ right
        second.mul_(self.soap_beta2).addcmul_(turned, turned, value=1 - self.soap_beta2)
        update = left @ (left.mT @ first @ right / (second.sqrt() + self.eps)) @ right.mT
        unbiased = (1 - self.soap_beta2**n_steps) ** 0.5 / (1 - self.soap_beta1**n_steps)
        parameter.add_(update, alpha=-lr * unbiased)
        parameter.mul_(1 - lr * group["weight_decay"])

    def _turn(self, gradient: Tensor, state: State) -> None:
        n_steps = int(state["step"])
        second = state["exp_avg_sq"]
        sides = {"left": (gradient @ gradient.mT, -2), "right": (gradient.mT @ gradient, -1)}
        for name, (square, dim) in sides.items():
            known, basis = state[name], state[f"{name}_basis"]
            known.lerp_(square, 1 - self.soap_beta2)
            if n_steps == 0:
                basis.copy_(torch.linalg.eigh(known)[1].flip(-1))
            elif n_steps % self.soap_every == 0:
                values = (basis * (known @ basis)).sum(-2)
                order = values.argsort(-1, descending=True)
                by_side = order.unsqueeze(-1 if dim == -2 else -2)
                second.copy_(second.take_along_dim(by_side, dim))
                by_column = order.unsqueeze(-2)
                basis.copy_(torch.linalg.qr(known @ basis.take_along_dim(by_column, -1))[0])
