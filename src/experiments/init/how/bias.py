"""Weights' own layer with more experts, which are let in little by little (init/growth)."""

import torch

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.growth import find_grower, grow_into, grown_config
from experiments.init.how import How, Seeded, Started
from experiments.init.how._blocks import ffn_inputs
from experiments.init.how._seeds import check_grown
from experiments.models.ffn._base import FFN
from experiments.models.transformer import get_block


class Bias(How):
    """Keeps the old function, to the bit, until the first step."""

    def grows(self, base: FFNConfig) -> bool:
        return True

    def grown(self, base: FFNConfig, n_experts: int) -> FFNConfig:
        return grown_config(base, n_experts, "bias")

    def is_exact(self, base: FFNConfig) -> bool:
        return True

    def check(
        self, init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int
    ) -> None:
        check_grown(self, "bias", layer, base)

    def seed(self, ffn: FFN, base: FFN, init: Init, generator: torch.Generator) -> None:
        grow_into(ffn, base, how="bias", noise=init.noise, generator=generator)

    def finish(self, seeded: Seeded) -> Started:
        """Depths are measured on a batch of the training text."""
        model, tokens, late = seeded.model, next(seeded.batches), {}
        was_training = model.training
        model.eval()
        for i in seeded.bases:
            grower, layer = find_grower(model.config.ffns[i]), get_block(model, i).ffn
            late[i] = grower.late_depth(layer, ffn_inputs(model, tokens, i))
        model.train(was_training)
        return Started(late=late)


HOW = Bias()
