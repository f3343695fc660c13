"""Pre-norm: x + attention(norm(x)), then x + ffn(norm(x)). Radford 2019, GPT-2, §2.3; Xiong 2020,
arXiv:2002.04745, Fig. 1b.
"""

from dataclasses import dataclass

from torch import Tensor

from experiments.models.attention.attention import Past
from experiments.models.positions.positions import Seen
from experiments.models.residuals.residual import Block, Residual


@dataclass(frozen=True, kw_only=True)
class PreNorm(Residual):
    """No settings."""

    modules = ("attention_norm", "attention", "ffn_norm", "ffn")
    fused_norms = ("attention_norm", "ffn_norm")

    def attention_half(self, block: Block, x: Tensor, seen: Seen, past: Past | None) -> Tensor:
        return block.add(x, block.attention(block.normed("attention_norm", x), seen, past))

    def ffn_input(self, block: Block, x: Tensor, attended: Tensor) -> Tensor:
        return block.normed("ffn_norm", attended)
