"""The optimizer of a model: which parameters step how, and what its tables' gradients become.

Without Lightning: a bare loop on a machine that has none trains as a run does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from experiments.config.schema import KernelName, Optim
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.models.parametrization import scales
from experiments.models.roles import declared_roles
from experiments.models.transformer import Transformer
from experiments.training.optimizer import RowAdamW, keep_coalesced


def build_optimizer(model: Transformer, lr: float, optim: Optim, kernel: KernelName) -> RowAdamW:
    """AdamW over the groups of parameter_groups at this peak rate.

    Sets the model's execution to what optim.table_gradient asks for, and prepares its tables:
    their memory, and that gradients of rows stay coalesced.
    """
    how = optim.table_gradient
    execution = Execution(kernel=kernel, gradient="dense" if how == "dense" else "rows")
    optimizer = RowAdamW(
        parameter_groups(model, lr, optim),
        betas=(optim.beta1, optim.beta2),
        eps=optim.eps,
        state_dtype=getattr(torch, optim.table_state),
        execution=execution,
    )
    update = optimizer.update if how == "fused" else None
    model.set_execution(replace(execution, update=update))
    for _, parameter, group in _grouped(model):
        if group == "table":
            use_huge_pages(parameter)
            if how == "rows":
                keep_coalesced(parameter, execution)
    return optimizer


def parameter_groups(model: Transformer, lr: float, optim: Optim) -> list[dict[str, Any]]:
    """AdamW's groups: matrices of the backbone decay, its vectors don't, and neither do tables
    and keys, which have learning rates of their own (param_roles says which they are). Where the
    model has a base, each is parted by what becomes of rate, decay and epsilon.
    """
    by_rows = None if optim.table_gradient == "dense" else optim.table_gradient
    groups: Mapping[str, dict[str, Any]] = {
        "backbone": {"lr": lr, "weight_decay": optim.weight_decay},
        "vectors": {"lr": lr, "weight_decay": 0.0},
        "table": {"lr": lr * optim.table_lr, "weight_decay": 0.0, "rows": by_rows},
        "key": {"lr": lr * optim.key_lr, "weight_decay": 0.0},
    }
    scale_of = scales(model)
    parts: dict[str, dict[tuple[float, ...], list[nn.Parameter]]] = {name: {} for name in groups}
    for name, parameter, group in _grouped(model):
        scale = scale_of[name]
        part = scale.lr, scale.decay, scale.eps
        parts[group].setdefault(part, []).append(parameter)
    return [
        {
            "name": name,
            "params": members,
            **group,
            "lr": group["lr"] * by_lr,
            "weight_decay": group["weight_decay"] * by_decay,
            "eps": optim.eps * by_eps,
        }
        for name, group in groups.items()
        for (by_lr, by_decay, by_eps), members in parts[name].items()
    ]


def _grouped(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, str]]:
    """Each parameter that is trained, with its name and the group that it is of."""
    roles = declared_roles(model)
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            other = "backbone" if parameter.dim() >= 2 else "vectors"
            yield name, parameter, roles[name].group if name in roles else other
