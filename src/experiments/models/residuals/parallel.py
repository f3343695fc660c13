"""Attention and the feed-forward layer side by side: x + attention(norm(x)) + ffn(norm(x)), of one
norm. Wang & Komatsuzaki 2021, GPT-J; Chowdhery 2022, PaLM, arXiv:2204.02311, §2.
"""

from dataclasses import dataclass

from torch import Tensor

from experiments.models.attention.attention import Past
from experiments.models.positions.positions import Seen
from experiments.models.residuals.residual import Block, Residual


@dataclass(frozen=True, kw_only=True)
class Parallel(Residual):
    """No settings. Each half norms its input by itself, to be recomputed alone."""

    modules = ("shared_norm", "attention", "ffn")

    def attention_half(self, block: Block, x: Tensor, seen: Seen, past: Past | None) -> Tensor:
        return block.add(x, block.attention(block.normed("shared_norm", x), seen, past))

    def ffn_input(self, block: Block, x: Tensor, attended: Tensor) -> Tensor:
        return block.normed("shared_norm", x)
