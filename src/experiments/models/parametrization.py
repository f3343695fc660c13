"""Width and depth transfer: what becomes of initial values, rates, decay and epsilon as a model
grows, so that the learning rate found at a base width, and depth, is right at all others.

µP: Yang 2022, arXiv:2203.03466, Table 8. CompleteP: Dey 2025, arXiv:2505.01618, Table 1 and Eq. 40.
All factors are ratios to the base model, so at its size nothing changes, to the bit. Which
dimensions grow is found from the shapes of the same layers at the base width.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from experiments.models.roles import Role


@dataclass(frozen=True, kw_only=True)
class Base:
    """Model at whose size the learning rate is right.

    n_layers: its blocks, for CompleteP; None: depth changes nothing (µP).
    """

    d_model: int
    d_head: int
    n_layers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Multipliers:
    """Factors of a forward pass: of the head's input, of attention's logits, of what a block adds.

    Logits are multiplied by base width / width, so that the head's matrix, which a tied embedding
    is too, starts and learns as rows that are looked up do.
    """

    head: float = 1.0
    attention: float = 1.0
    residual: float = 1.0

    @classmethod
    def of(cls, base: Base, *, d_model: int, d_head: int, n_layers: int) -> "Multipliers":
        """Those of a model of this size."""
        return cls(
            head=base.d_model / d_model,
            attention=math.sqrt(base.d_head / d_head),  # 1 / d_head instead of its root
            residual=1.0 if base.n_layers is None else base.n_layers / n_layers,
        )


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Factors of a parameter: of its initial values, learning rate, weight decay and epsilon.

    fan_in, fan_out: how many times those of the base model are its own.
    """

    init: float = 1.0
    lr: float = 1.0
    decay: float = 1.0
    eps: float = 1.0
    fan_in: float = 1.0
    fan_out: float = 1.0


def scales(
    roles: Mapping[str, Role],
    shapes: Mapping[str, torch.Size],
    base: Mapping[str, torch.Size],
    depth: float = 1.0,
) -> dict[str, Scale]:
    """By the name of the parameter. shapes, base: those of the model's and of the base model's;
    depth: how many times its blocks are the model's (CompleteP).
    """
    found = {}
    for name, shape in shapes.items():
        scale = _scale(shape, base[name], roles.get(name))
        in_block = name.startswith("blocks.")
        found[name] = replace(scale, eps=scale.eps / depth) if in_block else scale
    return found


def _scale(shape: torch.Size, base: torch.Size, role: Role | None) -> Scale:
    """For Adam, whose steps have the size of the rate whatever the gradient's.

    A sum over the fan-in of steps that agree grows with it, so the rate falls as it rises; that of
    a look-up is of one. Decoupled decay is of rate times decay (Wang & Aitchison 2024,
    arXiv:2405.13698), which stays. A gradient's size is that of the outputs', 1 / fan-out where
    these grow, and epsilon goes with it.
    """
    numbers = math.prod(shape) / math.prod(base)
    if role is None:  # a vector
        return Scale(eps=1 / numbers, fan_out=numbers)
    if role.fan_in is None:  # started at the inverse root of a row's length; now of the base's
        row = shape[-1] / base[-1]
        return Scale(init=math.sqrt(row), eps=1 / row, fan_out=row)
    fan_in = shape[role.fan_in] / base[role.fan_in]
    fan_out = numbers / fan_in
    return Scale(lr=1 / fan_in, decay=fan_in, eps=1 / fan_out, fan_in=fan_in, fan_out=fan_out)
