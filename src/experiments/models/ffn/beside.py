"""A layer beside another: how a trained model gets one more without losing what it has, and where
trunk.beside puts it from the first step on.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from experiments.budget.costs import Cost, FFNConfig, Mixing
from experiments.models.ffn._base import FFN, beside_input
from experiments.models.tokens import Tokens


@dataclass(frozen=True, kw_only=True)
class BesideConfig:
    """y = frozen(x) + trained(x). Where only a run's layer is trained, the second is.

    Lample 2019 (arXiv:1907.05242, §4) puts a memory instead of a layer; Kim & Jung 2020
    (arXiv:2010.03881) find that a pretrained model wants it beside.
    """

    frozen: FFNConfig
    trained: FFNConfig

    @property
    def mixes(self) -> Mixing | None:
        """Tokens that either layer mixes; expert choice's tokens of a process come first."""
        own = [getattr(part, "mixes", None) for part in (self.frozen, self.trained)]
        return own[0] or own[1]

    def check_batch(self, n_tokens: int) -> None:
        """Raises ValueError if one of them can't share out so many tokens."""
        for part in (self.frozen, self.trained):
            check = getattr(part, "check_batch", None)
            if check is not None:
                check(n_tokens)

    def cost(self, d_model: int) -> Cost:
        """Both; the terms of the layer beside are named so."""
        terms = self.trained.cost(d_model).terms
        beside = (replace(term, name=f"beside.{term.name}", half=None) for term in terms)
        return Cost((*self.frozen.cost(d_model).terms, *beside))

    def build(self, d_model: int) -> "Beside":
        """Pair at this width."""
        return Beside(d_model, self)


class Beside(FFN):
    """Sum of two layers of the same input."""

    def __init__(self, d_model: int, config: BesideConfig) -> None:
        super().__init__()
        self.ffn: FFN = config.frozen.build(d_model)
        self.layer: FFN = config.trained.build(d_model)

    @property
    def reads_tokens(self) -> bool:  # type: ignore[override]
        """Whether one of the two does."""
        return self.ffn.reads_tokens or self.layer.reads_tokens

    def layers(self) -> Iterator[FFN]:
        yield from self.ffn.layers()
        yield from self.layer.layers()

    def studied(self) -> FFN:
        return self.layer

    def silence(self) -> None:
        """Makes the layer beside write zeros, so that the sum is what the other one writes."""
        with torch.no_grad():
            for weight in self.layer.output_weights():
                weight.zero_()

    def output_weights(self) -> tuple[Tensor, ...]:
        return (*self.ffn.output_weights(), *self.layer.output_weights())

    def why_not_fused(self) -> str | None:
        return self.ffn.why_not_fused()

    def fused_half(
        self, x: Tensor, norm: nn.RMSNorm, times: float, tokens: Tokens | None = None
    ) -> Tensor:
        """Layer that was there before; the one beside it as it is written."""
        y = self.ffn.fused_half(x, norm, times, *beside_input(self.ffn, tokens))
        return y + times * self.layer(norm(x), *beside_input(self.layer, tokens))

    def forward(self, x: Tensor, tokens: Tokens | None = None) -> Tensor:
        """(batch, seq, d_model) to the same."""
        y: Tensor = self.ffn(x, *beside_input(self.ffn, tokens))
        return y + self.layer(x, *beside_input(self.layer, tokens))
