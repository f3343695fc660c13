"""Layers of a model that say which experts a token reads, and their inputs as they come."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.models.ffn._base import FFN
from experiments.models.ffn._slots import Slotted
from experiments.models.norms.rms import RMSNorm
from experiments.models.tokens import Tokens
from experiments.models.transformer import Transformer, get_block


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspected:
    """A layer in its place. name: `blocks.1.ffn`, as its parameters' names begin; block: from 0.
    multiplier: of what its block adds to the residual stream.
    """

    name: str
    block: int
    module: FFN
    multiplier: float = 1.0

    @property
    def layer(self) -> Slotted:
        """Module, by what it says of its slots."""
        assert isinstance(self.module, Slotted)
        return self.module

    @property
    def n_experts(self) -> int:
        """N: rows that its slots choose among; of a dense layer, its hidden units."""
        return len(self.layer.slot_rows())

    @property
    def kind(self) -> str:
        """Class of the layer."""
        return type(self.module).__name__


def inspected_layers(model: Transformer, names: Sequence[str] | None = None) -> list[Inspected]:
    """Layers of these names, or all that can say what they read, the lowest first.

    Raises ValueError for a name that is none, a layer that can't say, and where no layer can.
    """
    found: dict[str, Inspected] = {}
    refused: dict[str, str] = {}
    for number in range(len(model.blocks)):
        block = get_block(model, number)
        own = list(block.ffn.layers())  # of a block that holds several, each
        for path, module in block.ffn.named_modules():
            if not (isinstance(module, FFN) and any(module is layer for layer in own)):
                continue
            name = ".".join(filter(None, (f"blocks.{number}.ffn", path)))
            why: str | None = f"{type(module).__name__} does not say which experts a token reads"
            if isinstance(module, Slotted):
                why = module.why_no_slots()
            if why is None:
                found[name] = Inspected(
                    name=name, block=number, module=module, multiplier=block.multiplier
                )
            else:
                refused[name] = why
    if names is None:
        if not found:
            each = "; ".join(f"{name}: {why}" for name, why in refused.items())
            raise ValueError(f"no layer of this model can be inspected ({each})")
        return list(found.values())
    for name in names:
        if name in refused:
            raise ValueError(f"{name} can't be inspected: {refused[name]}")
        if name not in found:
            known = ", ".join(found) or "none"
            raise ValueError(
                f"{name} is no layer of this model that can be inspected; it has {known}"
            )
    return [layer for name, layer in found.items() if name in names]


def the_layer(model: Transformer, name: str | None) -> Inspected:
    """Layer of this name; without one, that which alone has experts that a router chooses.

    Raises ValueError as inspected_layers, and where there are several or none.
    """
    if name is not None:
        (found,) = inspected_layers(model, [name])
        return found
    layers = inspected_layers(model)
    routed = [layer for layer in layers if layer.module.n_experts] or layers
    if len(routed) > 1:
        raise ValueError(
            f"{len(routed)} layers have experts; give layer= one of "
            f"{', '.join(layer.name for layer in routed)}"
        )
    return routed[0]


def final_norm(model: Transformer) -> RMSNorm:
    """Norm before the head, by whose weights parts of logits are found.

    Raises ValueError for one of another kind.
    """
    norm = model.norm
    if not isinstance(norm, RMSNorm):
        raise ValueError(
            f"{type(norm).__name__} before the head: what an expert adds to a logit is known for "
            "RMS norm alone (norm=rms)"
        )
    return norm


@contextmanager
def listening(
    layers: Sequence[Inspected], hear: Callable[[Inspected, Tensor, Tokens | None], None]
) -> Iterator[None]:
    """While it lasts, hear(layer, x, tokens) is called with the (T, d_model) input of each forward
    pass, and its tokens where the layer reads them, as Slotted.slots takes both.
    """

    def hook(layer: Inspected) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda module, inputs: hear(layer, *seen(inputs))

    handles = [layer.module.register_forward_pre_hook(hook(layer)) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def seen(inputs: tuple[Any, ...]) -> tuple[Tensor, Tokens | None]:
    """A layer's inputs, as its hooks have them: x as (T, d_model), and its tokens if it has any."""
    x, *tokens = inputs
    return x.detach().flatten(0, -2), tokens[0] if tokens else None


def find_device(model: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next(model.parameters()).device
