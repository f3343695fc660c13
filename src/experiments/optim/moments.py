"""The optimizer's moments of a run that goes on from another one, with more experts."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.optim import Optim
from experiments.init.growth import in_grown
from experiments.models.transformer import Transformer, block_of
from experiments.optim.groups import parameter_groups
from experiments.optim.muon import MOMENTUM
from experiments.optim.optimizer import MOMENTS, RowAdamW

_OF_ENTRIES = (*MOMENTS, MOMENTUM)  # as large as their parameter; not its number of steps

# parameter -> step, exp_avg, exp_avg_sq
Moments = Mapping[str, Mapping[str, Tensor]]


def grown_moments(
    saved: Mapping[str, Any],
    model: Transformer,
    bases: Sequence[FFNConfig],
    blocks: Sequence[int],
    optim: Optim,
    how: str,
) -> Moments:
    """A parent's moments as the grown model's: old rows keep theirs, and new ones begin at zero, or
    with `copies` at those of what they are copies of. Steps are counted on.

    saved: the parent's optimizer, whose blocks held `bases`. None, {}, where it had other groups of
    parameters than a whole model's: parts of it were frozen, or it stepped by another optimizer.
    """
    parent, groups = _parent(model, bases, optim)
    if _sizes(groups) != _sizes(saved["param_groups"]):
        return {}
    names = {id(p): name for name, p in parent.named_parameters()}
    order = [names[id(p)] for group in groups for p in group["params"]]
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    moments = {}
    for name, i in zip(order, indices, strict=True):
        state = saved["state"].get(i)
        if state is None:  # of a table that was never retrieved from
            continue
        moments[name] = {
            key: _grown(name, tensor, parent, model, blocks, how) if key in _OF_ENTRIES else tensor
            for key, tensor in state.items()
        }
    return moments


def has_moments(
    saved: Mapping[str, Any], model: Transformer, bases: Sequence[FFNConfig], optim: Optim
) -> bool:
    """Whether grown_moments() finds any."""
    _, groups = _parent(model, bases, optim)
    return bool(saved["state"]) and _sizes(groups) == _sizes(saved["param_groups"])


def _parent(
    model: Transformer, bases: Sequence[FFNConfig], optim: Optim
) -> tuple[Transformer, Sequence[Mapping[str, Any]]]:
    """The model before it grew, without its numbers, and the groups of its parameters."""
    with torch.device("meta"):
        parent = replace(model.config, ffns=tuple(bases)).build()
    return parent, parameter_groups(parent, 1.0, optim)


def _sizes(groups: Sequence[Mapping[str, Any]]) -> list[int]:
    return [len(group["params"]) for group in groups]


def _grown(
    name: str,
    moment: Tensor,
    parent: Transformer,
    model: Transformer,
    blocks: Sequence[int],
    how: str,
) -> Tensor:
    for i in blocks:
        prefix = f"blocks.{i}.ffn."
        if name.startswith(prefix):
            before, after = block_of(parent, i).ffn, block_of(model, i).ffn
            return in_grown(name.removeprefix(prefix), moment, before, after, how)
    return moment


def set_moments(optimizer: RowAdamW, model: Transformer, moments: Moments) -> None:
    """Gives the optimizer these moments of the model's parameters that it steps."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    by_rows = {id(p) for g in optimizer.param_groups if g["rows"] is not None for p in g["params"]}
    for name, parameter in model.named_parameters():
        if name not in moments or id(parameter) not in stepped:
            continue
        dtype = optimizer.state_dtype if id(parameter) in by_rows else parameter.dtype
        optimizer.state[parameter] = {
            key: tensor.to(
                parameter.device, dtype if key in _OF_ENTRIES else tensor.dtype, copy=True
            )
            for key, tensor in moments[name].items()
        }
