"""Muon: a matrix steps by its momentum, with all singular values made about 1.

Jordan 2024 (https://kellerjordan.github.io/posts/muon/); torch.optim.Muon's arithmetic, operation
for operation. Ours for two reasons: torch's takes single matrices, and here stacks of experts step
as batches; and a run has one optimizer, under one schedule and in one checkpoint, whose other
groups are AdamW's. The tests compare the two.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

Adjust = Literal["match_rms_adamw", "original"]
MOMENTUM = "momentum_buffer"
_QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: largest slope at 0, and values near 1 stay so
_EPS = 1e-7


def orthogonal(x: Tensor, n_steps: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """(..., n, m) matrices U S V^T to about U V^T, by n_steps of Newton and Schulz's iteration.

    Singular values come to between 0.7 and 1.2, unless they were below a hundredth of their norm.
    """
    a, b, c = _QUINTIC
    tall = x.shape[-2] > x.shape[-1]
    y = (x.mT if tall else x).to(dtype)
    y = y / y.norm(dim=(-2, -1), keepdim=True).clamp(min=_EPS)
    for _ in range(n_steps):
        gram = y @ y.mT
        y = a * y + (b * gram + c * gram @ gram) @ y
    return y.mT if tall else y


def adjusted(how: Adjust, fan_out: float, fan_in: float) -> float:
    """The factor on the rate of a step of singular values 1.

    original: by sqrt(fan_out / fan_in) if that is above 1 (Jordan). match_rms_adamw: to the size
    of AdamW's steps, so that its rate and decay are right (Liu 2025, arXiv:2502.16982, §2.2).
    """
    if how == "original":
        return math.sqrt(max(1.0, fan_out / fan_in))
    return 0.2 * math.sqrt(max(fan_out, fan_in))


def carried(how: Adjust, sides: tuple[float, float], grown: tuple[float, float]) -> float:
    """The rate of a matrix that has grown by these factors, from that of the base width.

    sides: fan-out and fan-in. So that steps have a spectral norm that goes as sqrt(fan_out /
    fan_in) (Yang 2023, arXiv:2310.17813, Condition 1).
    """
    (fan_out, fan_in), (by_out, by_in) = sides, grown
    before = adjusted(how, fan_out / by_out, fan_in / by_in)
    return math.sqrt(by_out / by_in) * before / adjusted(how, fan_out, fan_in)


@torch.no_grad()
def step_matrices(parameters: Sequence[Tensor], states: Any, group: dict[str, Any]) -> None:
    """One step of a group: lr, weight_decay, momentum, ns_steps, and adjust, a factor of the rate.

    Nesterov's momentum; decay is decoupled, of the rate without the factor. states: the
    optimizer's, by parameter.
    """
    for parameter in parameters:
        gradient = parameter.grad
        if gradient is None:
            continue
        state = states[parameter]
        if not state:
            state["step"] = torch.zeros(())  # which AdamW wants to find
            state[MOMENTUM] = torch.zeros_like(parameter)
        state["step"] += 1
        state[MOMENTUM].lerp_(gradient, 1 - group["momentum"])
        update = gradient.lerp(state[MOMENTUM], group["momentum"])
        update = orthogonal(update, group["ns_steps"])
        lr = float(group["lr"])
        parameter.mul_(1 - lr * group["weight_decay"])
        parameter.add_(update.to(parameter.dtype), alpha=-lr * group["adjust"])
