"""Trained parts of a model: all of it, the layers of some blocks, or its low-rank adapters."""

from experiments.models.batch_norm import BatchNorm
from experiments.models.lora import ADAPTERS
from experiments.models.roles import find_tables
from experiments.models.transformer import Transformer, get_block


def freeze(model: Transformer) -> None:
    """Leaves gradients to what the model's config says is trained; all else stays as it is.

    Running statistics of a frozen batch norm too, which no gradient would protect.
    """
    config = model.config
    if config.trained_blocks is None:
        return
    model.requires_grad_(False)
    learning: set[int] = set()  # the modules that are trained whole
    for i in config.trained_blocks:
        layer = get_block(model, i).ffn.studied()
        trained = find_tables(layer).values() if config.tables_alone else layer.parameters()
        for parameter in trained:
            parameter.requires_grad_(True)
        if not config.tables_alone:
            learning.update(map(id, layer.modules()))
    for name, parameter in model.named_parameters():
        if name.endswith(ADAPTERS):
            parameter.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.frozen = id(module) not in learning
