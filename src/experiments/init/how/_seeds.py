"""Refusals that several ways share."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from experiments.budget.costs import FFNConfig, find_name
from experiments.init.how import How
from experiments.init.neurons import read_neurons
from experiments.models.ffn.peer import PEERConfig


def check_grown(how: How, name: str, layer: FFNConfig, base: FFNConfig) -> None:
    """Raises ValueError unless the layer under study is what the weights' own grows to."""
    if layer != how.grown(base, getattr(layer, "n_experts", 0)):
        raise ValueError(
            f"init.how={name}: the layer under study is not the weights' own with more experts; "
            "give n_experts alone, and the rest is theirs"
        )


def check_mlp(name: str, base: FFNConfig, block: int) -> None:
    """Raises ValueError unless the block's own layer has neurons."""
    if not getattr(base, "is_mlp", False):
        raise ValueError(
            f"init.how={name}: block {block} of the weights holds {find_name(base)}, which has no "
            "neurons to copy; choose blocks with a dense layer by trunk.ffn_blocks=[...], or set "
            "init.how=beside"
        )


def check_neurons(
    name: str,
    layer: FFNConfig,
    base: FFNConfig,
    block: int,
    d_model: int,
    check: Callable[[Any, Any], object],
) -> None:
    """Raises ValueError unless the layer's experts can be the neurons of the block's own layer, as
    check(layer, neurons) says of both on the meta device.
    """
    check_mlp(name, base, block)
    if not isinstance(layer, PEERConfig):
        raise ValueError(
            f"init.how={name} with {find_name(layer)}: only PEER's experts are single neurons; set "
            "model=peer, or init.how=beside"
        )
    with torch.device("meta"):  # shapes alone
        new, neurons = layer.build(d_model), read_neurons(base.build(d_model))
    with named(name, block):
        check(new, neurons)


@contextmanager
def named(name: str, block: int) -> Iterator[None]:
    """Adds the way and the block to the words of a ValueError about the layer under study."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"model.{error} (init.how={name}, block {block})") from None
