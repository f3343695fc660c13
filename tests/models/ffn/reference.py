"""Holds a layer to a slow, obvious form of itself."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from experiments.kernels.ops import Execution
from experiments.models.documents import seen_before
from experiments.models.tokens import Tokens


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


def assert_as_by_reference(layer: nn.Module, how: Execution, *given: Any) -> None:
    """layer(*given) and all parameter gradients are those of kernel=reference, to the rounding of
    float32, of bfloat16 where a table has it: rows are read as they are, and summed in float32.
    """
    found = []
    for execution in (Execution(kernel="reference"), how):
        layer.zero_grad()
        layer.execution = execution
        y = layer(*given)
        y.square().sum().backward()
        found.append([y.detach(), *(p.grad.to_dense().clone() for p in layer.parameters())])
    for reference, fast in zip(*found, strict=True):
        rounding = 2e-2 if fast.dtype == torch.bfloat16 else 1e-4
        size = float(reference.abs().max())
        torch.testing.assert_close(fast, reference, rtol=rounding, atol=rounding * size)


def tokens_of(ids, end=None):
    """(batch, seq) ids as a trunk hands them to a layer; end: the id that ends a document."""
    return Tokens(ids, seen_before(ids, end))


class Told(nn.Module):
    """A layer that is called with these tokens."""

    def __init__(self, layer: nn.Module, tokens: Tokens) -> None:
        super().__init__()
        self.layer, self.tokens = layer, tokens

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x, self.tokens)


def with_tokens(layer):
    """Layer, which is handed some tokens where it looks at them and is called as layer(x)."""

    def some(_, args):
        shape = args[0].shape[:2]
        return args[0], tokens_of((7 * torch.arange(shape.numel()) % 11).view(shape))

    if layer.reads_tokens:
        layer.register_forward_pre_hook(some)
    return layer


def normed(queries, kind, norm):
    """(T, H, d_key) queries normalised in training as `kind` says, with norm's weight and bias."""
    if kind == "none":
        return queries
    if kind == "layer":  # each head of each token by itself, one set of weights for all heads
        centred = queries - queries.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * norm.weight + norm.bias
    centred = queries - queries.mean(0)  # over the tokens, each feature of each head by itself
    scaled = centred / (centred.square().mean(0) + 1e-5).sqrt()
    shape = queries.shape[1:]
    return scaled * norm.weight.view(shape) + norm.bias.view(shape)


def with_random_norm(layer):
    """Layer, with weights and biases of its query norm that can't be overlooked."""
    for parameter in layer.query_norm.parameters():
        torch.nn.init.normal_(parameter, mean=1.0, std=0.3)
    return layer
