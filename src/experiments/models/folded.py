"""A model whose multipliers are in its weights: for exports, whose architectures have none."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from experiments.models.ffn._base import share
from experiments.models.parametrization import Multipliers
from experiments.models.transformer import Transformer, get_block


def folded(model: Transformer) -> Transformer:
    """Same function without multipliers, which are in its weights; the model, if it has none.

    A tied head is untied. Equal to the bit where the multipliers are powers of two.
    """
    m, config = model.config.multipliers, model.config
    if m == Multipliers():
        return model
    tie_head = config.tie_head and m.head == 1
    with torch.device("meta"):
        plain = replace(config, base=None, tie_head=tie_head).build()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    state["head.weight"] *= m.head
    for i, block in enumerate(model.blocks):
        for name, rows in get_block(model, i).attention.query_rows():
            state[f"blocks.{i}.attention.{name}"][rows] *= m.attention
        for name in _written(block):
            state[f"blocks.{i}.{name}"] *= m.residual
    if tie_head:
        state["head.weight"] = state["embedding.weight"]
    plain.load_state_dict(state, assign=True)
    share(plain.ffn_layers())
    return plain.train(model.training)


def _written(block: Any) -> Iterator[str]:
    """Names of a block's matrices that write to the residual stream."""
    writes: tuple[Tensor, ...] = (
        *block.attention.output_weights(),
        *block.ffn.output_weights(),
    )
    for name, parameter in block.named_parameters():
        if any(parameter is weight for weight in writes):
            yield name
