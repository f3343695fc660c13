"""The optimizer of a model: which parameters step how, and what its tables' gradients become.

Without Lightning: a bare loop on a machine that has none trains as a run does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from experiments.config.constraints import KernelName
from experiments.config.optim import Optim
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.models.parametrization import Scale
from experiments.models.roles import Role, check_declared, declared_roles
from experiments.models.transformer import Transformer
from experiments.optim.muon import adjusted, carried
from experiments.optim.optimizer import RowAdamW, keep_coalesced


def build_optimizer(model: Transformer, lr: float, optim: Optim, kernel: KernelName) -> RowAdamW:
    """AdamW, and for matrices perhaps Muon, over parameter_groups at this peak rate.

    Sets the model's execution to what optim.table_gradient asks for, and prepares its tables:
    their memory, and that gradients of rows stay coalesced. Who has their columns stays.
    """
    how = optim.table_gradient
    execution = Execution(
        kernel=kernel, gradient="dense" if how == "dense" else "rows", columns=model.columns
    )
    optimizer = RowAdamW(
        parameter_groups(model, lr, optim),
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        state_dtype=getattr(torch, optim.table_state),
        execution=execution,
    )
    update = optimizer.update if how == "fused" else None
    model.set_execution(replace(execution, update=update))
    for group in optimizer.param_groups:
        if group["name"] == "table":
            for table in group["params"]:
                use_huge_pages(table)
                if how == "rows":
                    keep_coalesced(table, execution)
    return optimizer


def parameter_groups(model: Transformer, lr: float, optim: Optim) -> list[dict[str, Any]]:
    """The optimizer's groups: matrices of the backbone decay, its vectors don't, and neither do
    tables and keys, which have learning rates of their own (param_roles says which they are).

    With optim.matrices=muon, the backbone's maps are a group of Muon's. Where the model has a base,
    groups are parted by what becomes of rate, decay and epsilon. Raises ValueError for a matrix
    without a role where one is needed.
    """
    by_rows = None if optim.table_gradient == "dense" else optim.table_gradient
    groups: Mapping[str, dict[str, Any]] = {
        "backbone": {"lr": lr, "weight_decay": optim.weight_decay},
        "matrices": {
            "lr": lr * optim.muon_lr,
            "weight_decay": optim.weight_decay,
            "momentum": optim.muon_momentum,
            "ns_steps": optim.muon_ns_steps,
        },
        "vectors": {"lr": lr, "weight_decay": 0.0},
        "table": {"lr": lr * optim.table_lr, "weight_decay": 0.0, "rows": by_rows},
        "key": {"lr": lr * optim.key_lr, "weight_decay": 0.0},
    }
    if optim.matrices == "muon":
        check_declared(model, "optim.matrices=muon")
    roles, scale_of = declared_roles(model), model.scales()
    parts: dict[str, dict[tuple[float, ...], list[nn.Parameter]]] = {name: {} for name in groups}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        role, scale = roles.get(name), scale_of[name]
        if optim.matrices == "muon" and role is not None and role.is_muons:
            part = _muons(parameter, role, scale, optim)
            parts["matrices"].setdefault(part, []).append(parameter)
        else:
            other = "backbone" if parameter.dim() >= 2 else "vectors"
            members = parts[other if role is None else role.group]
            members.setdefault((scale.lr, scale.decay, scale.eps), []).append(parameter)
    return [
        {
            "name": name,
            "params": members,
            **group,
            "lr": group["lr"] * by_lr,
            "weight_decay": group["weight_decay"] * by_decay,
            **({"adjust": last} if name == "matrices" else {"eps": optim.eps * last}),
        }
        for name, group in groups.items()
        for (by_lr, by_decay, last), members in parts[name].items()
    ]


def _muons(
    parameter: nn.Parameter, role: Role, scale: Scale, optim: Optim
) -> tuple[float, float, float]:
    """Factors of rate and decay, and of the step's size."""
    how = optim.muon_adjust_lr_fn
    sides = role.sides(parameter.shape)
    by_lr = carried(how, sides, (scale.fan_out, scale.fan_in))
    return by_lr, 1 / by_lr, adjusted(how, *sides)
