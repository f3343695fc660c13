"""Optimizer of a model: which parameters step how, and what its tables' gradients become.

Without Lightning: a bare loop on a machine that has none trains as a run does.
"""

import typing
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

from experiments.config.constraints import KernelName
from experiments.config.optim import Optim
from experiments.kernels.ops import PLAIN, Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.models.roles import check_declared, declared_roles, find_tables
from experiments.models.transformer import Transformer
from experiments.optim.adamw import AdamWConfig
from experiments.optim.gradients import keep_coalesced
from experiments.optim.optimizer import GroupedOptimizer, Kind, OptimizerConfig, Trained
from experiments.optim.row_adamw import RowAdamW


def build_optimizer(
    model: Transformer, lr: float, optim: Optim, kernel: KernelName
) -> GroupedOptimizer:
    """Optimizer of a model's parameter_groups at this peak rate.

    Sets the model's execution to what optim.table_gradient asks for, and prepares its tables:
    their memory, and that gradients of rows stay coalesced. Who has their columns stays.
    """
    how = optim.table_gradient
    execution = Execution(
        kernel=kernel, gradient="dense" if how == "dense" else "rows", columns=model.columns
    )
    optimizer = GroupedOptimizer(parameter_groups(model, lr, optim, execution))
    update = optimizer.update if how == "fused" else None
    model.set_execution(replace(execution, update=update))
    for table in {id(table): table for table in find_tables(model).values()}.values():
        if table.requires_grad:
            use_huge_pages(table)
            if how == "rows":
                keep_coalesced(table, execution)
    return optimizer


def optimizers(optim: Optim, execution: Execution = PLAIN) -> tuple[OptimizerConfig, ...]:
    """Chosen optimizer, and those that step what it leaves, in the order they are asked in."""
    assert isinstance(optim, OptimizerConfig)
    shared = {field.name: getattr(optim, field.name) for field in fields(Optim)}
    return optim, RowAdamW(**shared, execution=execution), AdamWConfig(**shared)


def trained_parameters(model: Transformer, lr: float, optim: Optim) -> Iterator[Trained]:
    """Each parameter that is trained, with the rate and decay of its kind: matrices of the backbone
    decay, its vectors don't, and neither do tables and keys, which have learning rates of their own
    (param_roles says which they are).
    """
    kinds = {
        "backbone": (lr, optim.weight_decay),
        "vectors": (lr, 0.0),
        "table": (lr * optim.table_lr, 0.0),
        "key": (lr * optim.key_lr, 0.0),
    }
    roles, scales = declared_roles(model), model.scales()
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            role = roles.get(name)
            other: Kind = "backbone" if parameter.dim() >= 2 else "vectors"
            kind = other if role is None else role.group
            rate, decay = kinds[kind]
            yield Trained(
                tensor=parameter,
                kind=kind,
                role=role,
                scale=scales[name],
                lr=rate,
                weight_decay=decay,
                by_rows=kind == "table" and optim.table_gradient != "dense",
            )


def taker(parameter: Trained, among: tuple[OptimizerConfig, ...]) -> OptimizerConfig:
    """Optimizer that steps the parameter: the first of these that takes it."""
    asked = (one for one in among if one.takes_rows or not parameter.by_rows)
    return next(one for one in asked if one.takes(parameter))


def parameter_groups(
    model: Transformer, lr: float, optim: Optim, execution: Execution = PLAIN
) -> list[dict[str, Any]]:
    """Groups of a model's trained parameters: of each kind, those of one optimizer, under `by`,
    and of equal settings.

    Raises ValueError for a matrix without a role where the optimizer or the parametrization needs
    roles.
    """
    among = optimizers(optim, execution)
    check_roles(model, optim)
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for parameter in trained_parameters(model, lr, optim):
        by = taker(parameter, among)
        settings = by.settings(parameter)
        # in checkpoints' order: kinds, and of a kind AdamW's come first
        order = typing.get_args(Kind).index(parameter.kind), -among.index(by)
        group = {"name": parameter.kind, "params": [], "by": by, **settings}
        found = groups.setdefault((*order, *settings.items()), group)
        found["params"].append(parameter.tensor)
    return [groups[key] for key in sorted(groups, key=lambda key: key[:2])]


def check_roles(model: Transformer, optim: Optim) -> None:
    """Raises ValueError if a matrix has no role, and the optimizer needs it."""
    assert isinstance(optim, OptimizerConfig)
    if optim.needs_roles:
        check_declared(model, optim.choice)
