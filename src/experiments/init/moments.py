"""Optimizer's moments of a run that goes on from another one, with more experts."""

import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.optim import Optim
from experiments.init.growth import in_grown
from experiments.models.transformer import Transformer, get_block
from experiments.optim.groups import parameter_groups
from experiments.optim.optimizer import GroupedOptimizer, State

Moments = Mapping[str, State]  # of each parameter, what its optimizer keeps of it


def grown_moments(
    saved: Mapping[str, Any],
    model: Transformer,
    bases: Sequence[FFNConfig],
    blocks: Sequence[int],
    optim: Optim,
    how: str,
) -> Moments:
    """A parent's moments as the grown model's: old rows keep theirs, and new ones begin at zero, or
    with `copies` at those of what they are copies of. Steps are counted on. A parameter that has
    grown, and of which the optimizer keeps what is not of its entries, has none.

    saved: the parent's optimizer, whose blocks held `bases`. None, {}, where it had other groups of
    parameters than a whole model's: parts of it were frozen, or it stepped by another optimizer.
    """
    parent, groups = _parent(model, bases, optim)
    if not _belong_to(saved, groups):
        return {}
    names = {id(p): name for name, p in parent.named_parameters()}
    grown = dict(model.named_parameters())
    order = [(names[id(p)], p) for group in groups for p in group["params"]]
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    moments = {}
    for (name, before), i in zip(order, indices, strict=True):
        state = saved["state"].get(i)
        if state is None:  # of a table that was never retrieved from
            continue
        of_entries = {key for key, t in state.items() if t.dim() and t.shape == before.shape}
        others = [key for key, t in state.items() if t.dim() and key not in of_entries]
        if others and grown[name].shape != before.shape:
            continue
        moments[name] = {
            key: _grown(name, tensor, parent, model, blocks, how) if key in of_entries else tensor
            for key, tensor in state.items()
        }
    return moments


def has_moments(
    saved: Mapping[str, Any], model: Transformer, bases: Sequence[FFNConfig], optim: Optim
) -> bool:
    """Whether grown_moments() finds any."""
    _, groups = _parent(model, bases, optim)
    return bool(saved["state"]) and _belong_to(saved, groups)


def _parent(
    model: Transformer, bases: Sequence[FFNConfig], optim: Optim
) -> tuple[Transformer, Sequence[Mapping[str, Any]]]:
    """Model before it grew, without its numbers, and the groups of its parameters."""
    with torch.device("meta"):
        parent = replace(model.config, ffns=tuple(bases)).build()
    return parent, parameter_groups(parent, 1.0, optim)


def _belong_to(saved: Mapping[str, Any], groups: Sequence[Mapping[str, Any]]) -> bool:
    """Whether these groups' optimizers have saved that."""
    sizes = ([len(g["params"]) for g in of] for of in (groups, saved["param_groups"]))
    if operator.ne(*sizes):
        return False
    indices = [i for group in saved["param_groups"] for i in group["params"]]
    own = [group["by"].moments(p).keys() for group in groups for p in group["params"]]
    states = saved["state"]
    return all(i not in states or states[i].keys() == names for i, names in zip(indices, own))


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
            before, after = get_block(parent, i).ffn, get_block(model, i).ffn
            return in_grown(name.removeprefix(prefix), moment, before, after, how)
    return moment


def set_moments(optimizer: GroupedOptimizer, model: Transformer, moments: Moments) -> None:
    """Gives the optimizer these moments of the model's parameters that it steps."""
    stepped = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        if name in moments and id(parameter) in stepped:
            optimizer.restore(parameter, moments[name])
