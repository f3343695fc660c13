"""The optimizer of a model: which parameters step how, and what its tables' gradients become.

Without Lightning: a bare loop on a machine that has none trains as a run does.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from experiments.config.schema import KernelName, Optim
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
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
    for parameter, role in _roles(model):
        if role == "table":
            use_huge_pages(parameter)
            if how == "rows":
                keep_coalesced(parameter, execution)
    return optimizer


def parameter_groups(model: nn.Module, lr: float, optim: Optim) -> list[dict[str, Any]]:
    """AdamW's groups: matrices of the backbone decay, its vectors don't, and neither do tables
    and keys, which have learning rates of their own (FFN.param_roles says which they are).
    """
    by_rows = None if optim.table_gradient == "dense" else optim.table_gradient
    groups: Mapping[str, dict[str, Any]] = {
        "backbone": {"lr": lr, "weight_decay": optim.weight_decay},
        "vectors": {"lr": lr, "weight_decay": 0.0},
        "table": {"lr": lr * optim.table_lr, "weight_decay": 0.0, "rows": by_rows},
        "key": {"lr": lr * optim.key_lr, "weight_decay": 0.0},
    }
    members: dict[str, list[nn.Parameter]] = {name: [] for name in groups}
    for parameter, role in _roles(model):
        members[role].append(parameter)
    return [{"name": n, "params": members[n], **g} for n, g in groups.items() if members[n]]


def _roles(model: nn.Module) -> list[tuple[nn.Parameter, str]]:
    special: dict[nn.Parameter, str] = {}
    for module in model.modules():
        named = dict(module.named_parameters())
        for name, role in getattr(module, "param_roles", {}).items():
            if name in named:  # a gate's table is there only with gated experts
                special[named[name]] = role
    return [
        (p, special.get(p, "backbone" if p.dim() >= 2 else "vectors"))
        for p in model.parameters()
        if p.requires_grad
    ]
