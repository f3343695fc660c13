"""A model whose multipliers are in its weights: for exports, whose architectures have none."""

from dataclasses import replace

import torch

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
    for i in range(len(model.blocks)):
        block = get_block(model, i)
        for name, rows in block.attention.query_rows():
            state[f"blocks.{i}.attention.{name}"][rows] *= m.attention
        written = {id(weight) for weight in block.residual.written(block)}
        if m.residual != 1 and not written:
            raise ValueError(
                f"{type(config.norm).__name__} has no weights to have the depth's multiplier "
                f"{m.residual:g} in, as {type(block.residual).__name__} would; use another norm"
            )
        for name, parameter in block.named_parameters():
            if id(parameter) in written:
                state[f"blocks.{i}.{name}"] *= m.residual
    if tie_head:
        state["head.weight"] = state["embedding.weight"]
    plain.load_state_dict(state, assign=True)
    share(plain.ffn_layers())
    return plain.train(model.training)
