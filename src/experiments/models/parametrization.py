"""Width and depth transfer: what becomes of initial values, rates, decay and epsilon as a model
grows, so that the learning rate found at a base width, and depth, is right at all others.

µP: Yang 2022, arXiv:2203.03466, Table 8. CompleteP: Dey 2025, arXiv:2505.01618, Table 1 and Eq. 40.
All factors are ratios to the base model, so at its size nothing changes, to the bit. Which
dimensions grow is found from the shapes of the same layers at the base width.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from experiments.config.schema import RunConfig
from experiments.models.roles import Role, check_declared, declared_roles

if TYPE_CHECKING:
    from experiments.models.transformer import Transformer, TransformerConfig


@dataclass(frozen=True, kw_only=True)
class Base:
    """The model at whose size the learning rate is right.

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


def base_of(config: RunConfig) -> Base | None:
    """The model at whose size optim.lr is right; None in the standard parametrization.

    Raises ValueError for a base that can't be built, and for a run that starts from weights.
    """
    optim, ladder, n_kv_heads = config.optim, config.ladder, config.trunk.n_kv_heads
    if optim.parametrization == "sp":
        return None
    given = f"optim.parametrization={optim.parametrization}"
    if config.init is not None:
        raise ValueError(
            f"{given} says how weights start and what logits are multiplied by, and a run that "
            "starts from weights has those of another; set optim.parametrization=sp, or init=none"
        )
    base = Base(
        d_model=optim.lr_d_model,
        d_head=optim.lr_d_head or ladder.d_head,
        n_layers=optim.lr_n_layers if optim.parametrization == "completep" else None,
    )
    if base.d_model % base.d_head or (base.d_model // base.d_head) % (n_kv_heads or 1):
        name = "ladder.d_head" if optim.lr_d_head is None else "optim.lr_d_head"
        shared = "" if n_kv_heads is None else f", shared by trunk.n_kv_heads={n_kv_heads}"
        raise ValueError(
            f"optim.lr_d_model={base.d_model} with {given} must be the width of a model, so a "
            f"whole number of heads of {name}={base.d_head}{shared}; change ladder.lr_d_model, at "
            "which ladder.lr is right"
        )
    return base


def multipliers(config: "TransformerConfig") -> Multipliers:
    """The multipliers of a model of this config; all 1 where it has no base."""
    base = config.base
    if base is None:
        return Multipliers()
    return Multipliers(
        head=base.d_model / config.d_model,
        attention=math.sqrt(base.d_head / config.d_head),  # 1 / d_head instead of its root
        residual=1.0 if base.n_layers is None else base.n_layers / len(config.ffns),
    )


def scales(model: "Transformer") -> dict[str, Scale]:
    """By the name of the parameter. Raises ValueError for a matrix without a role."""
    base = model.config.base
    if base is None:
        return {name: Scale() for name, _ in model.named_parameters()}
    shapes = base_shapes(model.config)
    roles = declared_roles(model)
    depth = 1.0 if base.n_layers is None else len(model.config.ffns) / base.n_layers
    found = {}
    for name, parameter in model.named_parameters():
        scale = _scale(parameter.shape, shapes[name], roles.get(name))
        in_block = name.startswith("blocks.")
        found[name] = replace(scale, eps=scale.eps / depth) if in_block else scale
    return found


def base_shapes(config: "TransformerConfig") -> dict[str, torch.Size]:
    """The shapes of the parameters of the base model, which is not made.

    Raises ValueError for a matrix without a role.
    """
    base = config.base
    assert base is not None
    with torch.device("meta"):
        small = replace(config, d_model=base.d_model, d_head=base.d_head, base=None).build()
    check_declared(small, "optim.parametrization=mup or completep")
    return {name: parameter.shape for name, parameter in small.named_parameters()}


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


def scale_initial(model: "Transformer") -> None:
    """Initial values as drawn become those of the parametrization, in place."""
    if model.config.base is None:
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, scale in scales(model).items():
            if scale.init != 1:
                parameters[name].mul_(scale.init)


def folded(model: "Transformer") -> "Transformer":
    """The same function without multipliers, which are in its weights; the model, if it has none.

    A tied head is untied. Equal to the bit where the multipliers are powers of two.
    """
    m, config = multipliers(model.config), model.config
    if m == Multipliers():
        return model
    tie_head = config.tie_head and m.head == 1
    with torch.device("meta"):
        plain = replace(config, base=None, tie_head=tie_head).build()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    state["head.weight"] *= m.head
    for i, block in enumerate(model.blocks):
        state[f"blocks.{i}.attention.qkv.weight"][: config.d_model] *= m.attention
        for name in _written(block):
            state[f"blocks.{i}.{name}"] *= m.residual
    if tie_head:
        state["head.weight"] = state["embedding.weight"]
    plain.load_state_dict(state, assign=True)
    return plain.train(model.training)


def _written(block: Any) -> Iterator[str]:
    """The names of a block's matrices that write to the residual stream."""
    writes: tuple[Tensor, ...] = (block.attention.out.weight, *block.ffn.output_weights())
    for name, parameter in block.named_parameters():
        if any(parameter is weight for weight in writes):
            yield name
