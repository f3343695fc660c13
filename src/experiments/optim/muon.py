"""Muon: a matrix steps by its momentum, with all singular values made about 1.

Jordan 2024 (https://kellerjordan.github.io/posts/muon/). A matrix steps as by torch.optim.Muon, to
the bit. Ours because that takes single matrices alone, and here stacks of experts step as batches.

    m = momentum m + (1 - momentum) g          u = momentum m + (1 - momentum) g    (Nesterov's)
    w = w - lr weight_decay w - lr adjust orthogonal(u)
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from experiments.config.constraints import BelowOne, Positive, Within
from experiments.config.effects import Trains
from experiments.config.fields import added
from experiments.optim.optimizer import OptimizerConfig, State, Trained

Adjust = Literal["match_rms_adamw", "original"]
MOMENTUM = "momentum_buffer"
_MAPS = Trains("map", "a map, which Muon steps")
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: largest slope at 0, and values near 1 stay so
_EPS = 1e-7


def orthogonal(x: Tensor, n_steps: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(..., n, m) matrices U S V^T to about U V^T, by n_steps of Newton and Schulz's iteration.

    Singular values come to between 0.7 and 1.2, unless they were below a hundredth of their norm.
    """
    if x.dim() > 3:
        return orthogonal(x.flatten(0, -3), n_steps, dtype).view(x.shape)
    a, b, c = _QUINTIC
    tall = x.shape[-2] > x.shape[-1]
    y = (x.mT if tall else x).to(dtype)
    y = y / y.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    # a sum of products is rounded once, as in torch's, and not once a product
    added = torch.addmm if y.dim() == 2 else torch.baddbmm
    for _ in range(n_steps):
        gram = y @ y.mT
        y = added(y, added(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.mT if tall else y


def adjusted(how: Adjust, fan_out: float, fan_in: float) -> float:
    """Factor on the rate of a step of singular values 1.

    original: by sqrt(fan_out / fan_in) if that is above 1 (Jordan). match_rms_adamw: to the size
    of AdamW's steps, so that its rate and decay are right (Liu 2025, arXiv:2502.16982, §2.2).
    """
    if how == "original":
        return math.sqrt(max(1.0, fan_out / fan_in))
    return 0.2 * math.sqrt(max(fan_out, fan_in))


def carried(how: Adjust, sides: tuple[float, float], grown: tuple[float, float]) -> float:
    """Rate of a matrix that has grown by these factors, from that of the base width.

    sides: fan-out and fan-in. So that steps have a spectral norm that goes as sqrt(fan_out /
    fan_in) (Yang 2023, arXiv:2310.17813, Condition 1).
    """
    (fan_out, fan_in), (by_out, by_in) = sides, grown
    before = adjusted(how, fan_out / by_out, fan_in / by_in)
    return math.sqrt(by_out / by_in) * before / adjusted(how, fan_out, fan_in)


@dataclass(frozen=True, kw_only=True)
class MuonConfig(OptimizerConfig):
    """Muon of the backbone's maps and stacks of maps; embedding, head, tables, keys and vectors are
    AdamW's.

    muon_lr: times the rate. muon_ns_steps, muon_adjust_lr_fn: as torch.optim.Muon's.
    """

    needs_roles = True
    muon_lr: Positive = added(1.0, _MAPS)
    muon_momentum: BelowOne = added(0.95, _MAPS)
    muon_ns_steps: Annotated[int, Within(1, 50)] = added(5, _MAPS)
    muon_adjust_lr_fn: Adjust = added("match_rms_adamw", _MAPS)

    def takes(self, parameter: Trained) -> bool:
        return parameter.role is not None and parameter.role.is_map

    def settings(self, parameter: Trained) -> dict[str, Any]:
        """adjust is a factor of the rate that decay is without."""
        assert parameter.role is not None
        how, scale = self.muon_adjust_lr_fn, parameter.scale
        sides = parameter.role.sides(parameter.tensor.shape)
        by_lr = carried(how, sides, (scale.fan_out, scale.fan_in))
        return {
            "lr": parameter.lr * self.muon_lr * by_lr,
            "weight_decay": parameter.weight_decay * (1 / by_lr),
            "adjust": adjusted(how, *sides),
        }

    def moments(self, parameter: Tensor) -> State:
        return {"step": torch.zeros(()), MOMENTUM: torch.zeros_like(parameter)}

    def step(
        self, parameters: Sequence[Tensor], states: Sequence[State], group: Mapping[str, Any]
    ) -> None:
        for parameter, state in zip(parameters, states, strict=True):
            gradient = parameter.grad
            assert gradient is not None
            state["step"] += 1
            state[MOMENTUM].lerp_(gradient, 1 - self.muon_momentum)
            update = gradient.lerp(state[MOMENTUM], self.muon_momentum)
            update = orthogonal(update, self.muon_ns_steps)
            lr = float(group["lr"])
            parameter.mul_(1 - lr * group["weight_decay"])
            parameter.add_(update.to(parameter.dtype), alpha=-lr * group["adjust"])
