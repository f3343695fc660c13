"""Changes and measurements of a model's blocks that several ways share."""

from collections.abc import Sequence

import torch
from torch import Tensor

from experiments.models.ffn.beside import Beside
from experiments.models.transformer import Transformer, get_block


@torch.no_grad()
def ffn_inputs(model: Transformer, tokens: Tensor, i: int) -> Tensor:
    """(batch, seq) tokens to the (batch * seq, d_model) inputs of block i's feed-forward layer."""
    seen, handed = model.seen(tokens), model.handed(tokens)
    x = model.embedding(tokens)
    for block in model.blocks[:i]:
        x = block(x, seen, None, handed)
    block = get_block(model, i)
    attended = block.residual.attention_half(block, x, seen, None)
    return block.residual.ffn_input(block, x, attended).flatten(0, 1)


@torch.no_grad()
def is_exact(model: Transformer, blocks: Sequence[int], tokens: Tensor) -> bool:
    """Whether the layers beside those of `blocks` leave (batch, seq) tokens their logits."""
    was_training = model.training
    model.eval()
    pairs = [(get_block(model, i), get_block(model, i).ffn) for i in blocks]
    with_layers = model(tokens)
    try:
        for block, ffn in pairs:
            assert isinstance(ffn, Beside)
            block.ffn = ffn.ffn
        return torch.equal(model(tokens), with_layers)
    finally:
        for block, ffn in pairs:
            block.ffn = ffn
        model.train(was_training)
