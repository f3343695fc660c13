"""Holds a layer to a slow, obvious form of itself."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


def assert_same(layer: nn.Module, naive: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Outputs, input gradients and all parameter gradients agree, in float64, to rounding."""
    results = []
    for forward in (layer, naive):
        layer.zero_grad()
        leaf = x.clone().requires_grad_()
        y = forward(leaf)
        y.square().sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters() if p.grad is not None]
        assert len(gradients) == len(list(layer.parameters()))
        results.append([y.detach(), leaf.grad, *gradients])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-10)
