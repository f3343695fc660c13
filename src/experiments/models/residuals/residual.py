"""A block and the form of its residual path: which norms it has, what its two halves read, and how
what they compute is added to the stream. README.md has how to add a form.

Torch alone: an export has this file and that of the model's own form.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from typing import ClassVar

from torch import Tensor, nn

from experiments.models.attention.attention import Attention, Past
from experiments.models.ffn._base import FFN, beside_input
from experiments.models.positions.positions import Seen
from experiments.models.tokens import Tokens


class Residual(ABC):
    """A frozen dataclass, which a yaml of conf/residual names by its `_target_`.

    modules: of a block, in the order of its tensors: `attention`, `ffn`, and norms by any names.
    fused_norms: the norms of attention's half and of the layer's, where each half is
        x + f(norm(x)), as the fused halves of both are; None: the form has no fused half.
    adds_outputs: whether what attention and the layer compute is added to the stream as it is,
        times the block's multiplier; False: something acts on it first, or on the sum.
    """

    modules: ClassVar[tuple[str, ...]]
    fused_norms: ClassVar[tuple[str, str] | None] = None
    adds_outputs: ClassVar[bool] = True

    @property
    def norms(self) -> tuple[str, ...]:
        """A block's norms, by name."""
        return tuple(name for name in self.modules if name not in ("attention", "ffn"))

    @abstractmethod
    def attention_half(self, block: "Block", x: Tensor, seen: Seen, past: Past | None) -> Tensor:
        """(batch, n, d_model) of the stream to the same after attention; seen and past as Attention
        has them.
        """

    @abstractmethod
    def ffn_input(self, block: "Block", x: Tensor, attended: Tensor) -> Tensor:
        """Input of the feed-forward layer. x: the block's; attended: the stream after attention."""

    def ffn_half(
        self, block: "Block", x: Tensor, attended: Tensor, tokens: Tokens | None
    ) -> Tensor:
        """Output of the block. x, attended: as ffn_input has them; tokens: those of x, for a layer
        that looks at them.
        """
        return block.add(attended, block.feed(self.ffn_input(block, x, attended), tokens))

    def written(self, block: "Block") -> tuple[Tensor, ...]:
        """Weights that scale what Block.add adds to the stream: it is proportional to them. Their
        initial values fall with depth, and an export has a parametrization's multiplier in them.
        """
        return (*block.attention.output_weights(), *block.ffn.output_weights())

    def why_not_fused(self) -> str | None:
        """Why its halves are not fused, in words; None if they are."""
        return None if self.fused_norms else f"{type(self).__name__} has no fused form"


class Block(nn.Module):
    """Attention and a feed-forward layer on the residual stream, by the form of its path.

    norms: those of residual.norms, in order. multiplier: of what is added to the stream.
    """

    attention: Attention
    ffn: FFN

    def __init__(
        self,
        residual: Residual,
        attention: Attention,
        ffn: FFN,
        norms: Iterable[nn.Module],
        multiplier: float = 1.0,
    ) -> None:
        super().__init__()
        self.residual, self.multiplier = residual, multiplier
        own = {"attention": attention, "ffn": ffn, **dict(zip(residual.norms, norms, strict=True))}
        for name in residual.modules:
            self.add_module(name, own[name])

    def forward(
        self,
        x: Tensor,
        seen: Seen,
        past: Past | None = None,
        tokens: Tokens | None = None,
    ) -> Tensor:
        attended = self.residual.attention_half(self, x, seen, past)
        return self.residual.ffn_half(self, x, attended, tokens)

    def norm(self, name: str) -> nn.Module:
        """Norm of that name. Raises AttributeError for a form that has none."""
        found: nn.Module = getattr(self, name)
        return found

    def normed(self, name: str, x: Tensor) -> Tensor:
        """(batch, n, d_model) by the norm of that name."""
        y: Tensor = self.norm(name)(x)
        return y

    def feed(self, x: Tensor, tokens: Tokens | None) -> Tensor:
        """Outputs of the feed-forward layer for its inputs (batch, n, d_model)."""
        y: Tensor = self.ffn(x, *beside_input(self.ffn, tokens))
        return y

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Stream x with y added, times the multiplier."""
        return x + (y if self.multiplier == 1 else self.multiplier * y)
