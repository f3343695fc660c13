"""Layerwise distillation: a layer learns the outputs of the one it replaces, on cached inputs."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from experiments.budget.costs import TRAINING_PASSES, Cost
from experiments.models.ffn._base import FFN
from experiments.models.roles import find_tables

_OF_TABLES = 30.0  # their rate, in that of the rest
_BETAS = (0.9, 0.99)  # 0.99: a distillation is a few hundred steps
_WARM_UP = 0.05  # of the steps
_HELD_OUT = 0.1  # of the tokens, at their end; never trained on
_MEASURED_AT_ONCE = 2048  # tokens


@dataclass(frozen=True, kw_only=True)
class Distilled:
    """Course of a distillation.

    error_before, error_after: the mean squared difference from the targets over the targets'
        variance, on tokens that were not trained on; 1 is the error of the targets' mean.
    n_tokens: trained on, repeats included. flops: of those, forward and backward, and of measuring.
    """

    error_before: float
    error_after: float
    n_tokens: int
    flops: float


def distil(
    layer: FFN,
    inputs: Tensor,
    targets: Tensor,
    *,
    cost: Cost,
    lr: float,
    n_steps: int,
    batch_tokens: int,
    generator: torch.Generator,
) -> Distilled:
    """Trains the layer in place to give targets (T, d) at inputs (T, d).

    AdamW without decay, at 30 times lr for tables and lr for the rest (queries and keys), warmed
    up and then lowered to 0 along a cosine. Tables want much the larger rate: neurons come to do
    the work of those that are not retrieved, while keys that move fast lose what they were seeded
    with. Parameters that need no gradient stay as they are. The last tenth of the tokens is held
    out to measure on; the others come in a new order each time round.
    cost: of the layer, for the FLOPs.

    Raises ValueError for inputs and targets that don't belong together or are too few.
    """
    if inputs.shape != targets.shape or inputs.dim() != 2:
        raise ValueError(
            f"inputs {tuple(inputs.shape)} and targets {tuple(targets.shape)} must both be "
            "(tokens, d_model): one target for each input"
        )
    n_held_out = math.ceil(_HELD_OUT * len(inputs))
    n_train = len(inputs) - n_held_out
    if n_train < batch_tokens:
        raise ValueError(
            f"{len(inputs)} tokens, a tenth of them held out, are less than one batch of "
            f"batch_tokens={batch_tokens}: cache more tokens, or make smaller batches"
        )
    held_out = inputs[n_train:], targets[n_train:]
    variance = _variance(targets[:n_train])
    if not min(variance, _variance(held_out[1])) > 0:
        raise ValueError(
            "the targets do not vary, so there is nothing to learn: cache a text of more tokens"
        )
    before = _error(layer, *held_out)
    was_training = layer.training
    layer.train()
    optimizer = torch.optim.AdamW(_groups(layer, lr), betas=_BETAS, weight_decay=0.0)
    peaks = [group["lr"] for group in optimizer.param_groups]
    batches = _batches(n_train, batch_tokens, generator)
    for step in range(1, n_steps + 1):
        for group, peak in zip(optimizer.param_groups, peaks, strict=True):
            group["lr"] = peak * _share_of_peak(step, n_steps)
        picked = next(batches)
        y = layer(inputs[picked].unsqueeze(0)).squeeze(0)
        error = (y - targets[picked]).square().sum(1).mean() / variance
        auxiliary = layer.auxiliary_loss()
        optimizer.zero_grad()
        (error if auxiliary is None else error + auxiliary).backward()
        optimizer.step()
        layer.after_step()
    layer.train(was_training)
    n_tokens = n_steps * batch_tokens
    return Distilled(
        error_before=before,
        error_after=_error(layer, *held_out),
        n_tokens=n_tokens,
        flops=cost.forward_flops * (TRAINING_PASSES * n_tokens + 2 * n_held_out),
    )


def _groups(layer: FFN, lr: float) -> list[dict[str, object]]:
    """AdamW's groups: tables have a rate of their own."""
    tables = find_tables(layer)
    trained = {n: p for n, p in layer.named_parameters() if p.requires_grad}
    groups = [
        {"params": [p for n, p in trained.items() if n not in tables], "lr": lr},
        {"params": [p for n, p in trained.items() if n in tables], "lr": _OF_TABLES * lr},
    ]
    return [group for group in groups if group["params"]]


def _share_of_peak(step: int, n_steps: int) -> float:
    """Share of the peak learning rate at a step, counted from 1."""
    warm = min(1.0, step / max(1.0, _WARM_UP * n_steps))
    return warm * 0.5 * (1 + math.cos(math.pi * (step - 1) / n_steps))


def _batches(n: int, size: int, generator: torch.Generator) -> Iterator[Tensor]:
    """Indices below n without end, all of them before any comes again but for what is no batch."""
    while True:
        yield from torch.randperm(n, generator=generator)[: n // size * size].split(size)


def _variance(targets: Tensor) -> Tensor:
    """Mean squared distance of the targets (T, d) from their mean."""
    return (targets - targets.mean(0)).square().sum(1).mean()


@torch.no_grad()
def _error(layer: FFN, inputs: Tensor, targets: Tensor) -> float:
    """Mean squared error in evaluation mode, over the targets' variance."""
    was_training = layer.training
    layer.eval()
    total = 0.0
    for x, y in zip(inputs.split(_MEASURED_AT_ONCE), targets.split(_MEASURED_AT_ONCE), strict=True):
        total += (layer(x.unsqueeze(0)).squeeze(0) - y).square().sum().item()
    layer.train(was_training)
    return total / len(inputs) / _variance(targets).item()
