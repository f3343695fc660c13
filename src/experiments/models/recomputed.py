"""A model's pass from tokens to logits that keeps few activations for its backward pass.

Of attention's half of a block, and of the half of a layer whose forward pass leaves no mark but its
output (FFN.recomputes), the input alone is kept. The backward pass runs the half again first (Chen
2016, arXiv:1604.06174). Layers that count, balance, send or step in a pass run once, as ever.
Losses and gradients are those of the model as it is written, to the bit.
"""

from collections.abc import Callable

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from experiments.models.fused import is_hooked
from experiments.models.residuals.residual import Block
from experiments.models.transformer import Transformer


class Recomputed:
    """A model, with halves of its blocks recomputed: those in which no hook wants to be called.
    That is found out once, as in Fused.
    """

    def __init__(self, model: Transformer) -> None:
        self.model, self._again = model, []
        for block in model.blocks:
            assert isinstance(block, Block)
            recomputes = "recomputes" in vars(type(block.ffn))
            norms = [block.norm(name) for name in block.residual.norms]
            attends, feeds = _runs_alone(*norms, block.attention), _runs_alone(*norms, block.ffn)
            self._again.append((attends, recomputes and feeds))

    def describe(self) -> str:
        """How the trunk is computed, as a record says it."""
        return "eager, recomputed"

    def logits(self, tokens: Tensor) -> Tensor:
        """(batch, seq) to (batch, seq, vocab_size), as the model itself."""
        model = self.model
        if is_hooked(model):
            whole: Tensor = model(tokens)
            return whole
        seen, handed = model.seen(tokens), model.handed(tokens)
        x = model.embedding(tokens)
        for block, (attends, feeds) in zip(model.blocks, self._again, strict=True):
            assert isinstance(block, Block)
            if is_hooked(block):
                x = block(x, seen, None, handed)
                continue
            attended = _half(block.residual.attention_half, attends, block, x, seen, None)
            x = _half(block.residual.ffn_half, feeds, block, x, attended, handed)
        return model.logits(x)


def _runs_alone(*modules: nn.Module) -> bool:
    return not any(is_hooked(part) for module in modules for part in module.modules())


def _half(half: Callable[..., Tensor], again: bool, *arguments: object) -> Tensor:
    """half(*arguments), and once more in the backward pass if `again`. No half draws numbers."""
    if not again:
        return half(*arguments)
    y: Tensor = checkpoint(half, *arguments, use_reentrant=False, preserve_rng_state=False)
    return y
