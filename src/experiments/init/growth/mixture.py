"""A mixture of experts gets copies of its experts.

Where a token has one expert, it has one of the copies, and the FLOPs stay (Expert Upcycling,
arXiv:2604.19835). With top_k of 2 or more it has all copies of what it had, m times top_k: at the
same top_k copies of the first experts would take the places of the others, and the output would
change by half of its size and more.
"""

from dataclasses import replace

import torch
from torch import Tensor

from experiments.init.growth import Grower
from experiments.init.growth._copies import add_noise, check_multiple
from experiments.models.ffn.moe import MoE, MoEConfig

_CHOICE_NOISE = 1e-3  # copies have equal gates, so the least noise decides between them
_OF_EXPERTS = ("router.weight", "w_in", "w_gate", "w_out", "selection_bias")


class Mixture(Grower):
    """How mixtures of token choice grow."""

    config = MoEConfig
    ways = ("copies",)

    def grown(self, config: MoEConfig, n_experts: int, how: str) -> MoEConfig:
        check_multiple(n_experts, config.n_experts, "the experts that the layer has")
        if config.routing == "expert_choice":
            raise ValueError(
                "routing=expert_choice can't grow: copies would all take the same tokens, and "
                "others none; grow a mixture of routing=token_choice"
            )
        if config.top_k > 1:
            top_k = config.top_k * (n_experts // config.n_experts)
            return replace(config, n_experts=n_experts, top_k=top_k)
        if config.balance == "none":
            raise ValueError(
                "balance=none with top_k=1 can't grow: of equal copies one would get all tokens "
                "for good; grow a mixture of balance=bias or loss"
            )
        return replace(config, n_experts=n_experts)

    def in_grown(self, name: str, tensor: Tensor, layer: MoE, grown: MoE, how: str) -> Tensor:
        n_copies = grown.n_experts // layer.n_experts
        return torch.cat([tensor] * n_copies) if name in _OF_EXPERTS else tensor

    def begin(
        self, grown: MoE, layer: MoE, *, how: str, noise: float, generator: torch.Generator
    ) -> None:
        """Adds noise: with top_k=1 to the choice, which decides between copies; else to what copies
        write, as all are chosen. A softmax over m times the experts has gates of an m-th, so the
        bias on the choice is an m-th too, and outputs m times as large unless gates are made to sum
        to 1.
        """
        config, n_copies = layer.config, grown.n_experts // layer.n_experts
        if config.gate == "softmax":
            grown.selection_bias.div_(n_copies)
            if config.top_k == 1:
                grown.w_out.mul_(n_copies)
        if config.top_k > 1:
            add_noise(grown.w_out, n_copies, noise, generator)
            return
        mean_gate = 1 / grown.n_experts if config.gate == "softmax" else 0.5
        drawn = torch.randn(grown.n_experts, generator=generator)
        size = noise * _CHOICE_NOISE * mean_gate
        grown.selection_bias.add_((size * drawn).to(grown.selection_bias))


GROWER = Mixture()
