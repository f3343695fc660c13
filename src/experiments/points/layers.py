"""Which layer each block holds, of a run that starts from random weights."""

from collections.abc import Sequence

from experiments.budget.costs import FFNConfig
from experiments.config.schema import RunConfig
from experiments.models.blocks import assign_ffns, chosen_blocks
from experiments.models.ffn.beside import BesideConfig


def drawn(config: RunConfig) -> tuple[FFNConfig, ...]:
    """Each block's, of a run that starts from random weights."""
    trunk = config.trunk
    layers = assign_ffns(config.model, trunk.base_ffn, trunk.ffn_blocks, config.size)
    if not trunk.beside:
        return layers
    own, blocks = bases(config), chosen(config)
    return tuple(
        BesideConfig(frozen=own[i], trained=layer) if i in blocks else layer
        for i, layer in enumerate(layers)
    )


def chosen(config: RunConfig) -> tuple[int, ...]:
    """Blocks whose layer is under study."""
    return chosen_blocks(config.trunk.ffn_blocks, config.size)


def bases(config: RunConfig) -> Sequence[FFNConfig]:
    """What each block holds in the model that the weights are of."""
    base = config.trunk.base_ffn
    return base if isinstance(base, Sequence) else (base,) * config.size
