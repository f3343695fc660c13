"""The trained parts of a model: all of it, the layers of some blocks, or its low-rank adapters."""

from torch import nn

from experiments.models.batch_norm import BatchNorm
from experiments.models.roles import declared_roles
from experiments.models.transformer import Block, Transformer


def _tables(layer: nn.Module) -> set[str]:
    return {name for name, role in declared_roles(layer).items() if role.group == "table"}


def freeze(model: Transformer) -> None:
    """Leaves gradients to what the model's config says is trained; all else stays as it is.

    Running statistics of a frozen batch norm too, which no gradient would protect.
    """
    config = model.config
    if config.trained_blocks is None:
        return
    model.requires_grad_(False)
    for i in config.trained_blocks:
        block = model.blocks[i]
        assert isinstance(block, Block)
        layer = block.ffn.studied()
        for name, parameter in layer.named_parameters():
            parameter.requires_grad_(not config.tables_alone or name in _tables(layer))
    for name, parameter in model.named_parameters():
        if name.rpartition(".")[2] in ("lora_a", "lora_b"):
            parameter.requires_grad_(True)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.frozen = not module.weight.requires_grad
