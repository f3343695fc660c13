"""Norms before and after each half: x + norm(attention(norm(x))), then x + norm(ffn(norm(x))). Ding
2021, CogView, arXiv:2105.13290, §2.4; Gemma 2, arXiv:2408.00118, §2.

Norms of outputs start at (2 L)^-0.5, as all that writes to the stream of L blocks: "depth-scaled"
in Pangu Ultra, arXiv:2504.07866, §2.
"""

from dataclasses import dataclass

from torch import Tensor

from experiments.models.attention.attention import Past
from experiments.models.positions.positions import Seen
from experiments.models.residuals.residual import Block, Residual
from experiments.models.tokens import Tokens

_AFTER = ("attention_after", "ffn_after")


@dataclass(frozen=True, kw_only=True)
class Sandwich(Residual):
    """No settings."""

    modules = ("attention_norm", "attention", _AFTER[0], "ffn_norm", "ffn", _AFTER[1])
    adds_outputs = False

    def attention_half(self, block: Block, x: Tensor, seen: Seen, past: Past | None) -> Tensor:
        y = block.attention(block.normed("attention_norm", x), seen, past)
        return block.add(x, block.normed("attention_after", y))

    def ffn_input(self, block: Block, x: Tensor, attended: Tensor) -> Tensor:
        return block.normed("ffn_norm", attended)

    def ffn_half(self, block: Block, x: Tensor, attended: Tensor, tokens: Tokens | None) -> Tensor:
        y = block.feed(self.ffn_input(block, x, attended), tokens)
        return block.add(attended, block.normed("ffn_after", y))

    def written(self, block: Block) -> tuple[Tensor, ...]:
        return tuple(weight for name in _AFTER for weight in block.norm(name).parameters())
