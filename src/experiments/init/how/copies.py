"""Copies of experts, of a layer that has some; else a PEER beside the dense layer whose experts are
copies of its neurons.
"""

from typing import Any

import torch

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.growth import can_grow, grow_into, grown_config
from experiments.init.how import Seeded, Started
from experiments.init.how._seeds import check_grown, check_neurons
from experiments.init.how.beside import BesideOwn
from experiments.init.neurons import check_alike, read_neurons, seed_copies
from experiments.models.ffn.beside import Beside
from experiments.models.ffn.peer import PEER


class Copies(BesideOwn):
    """Which of the two, the block's own layer says."""

    def grows(self, base: FFNConfig) -> bool:
        return can_grow(base)

    def grown(self, base: FFNConfig, n_experts: int) -> FFNConfig:
        return grown_config(base, n_experts, "copies")

    def is_exact(self, base: FFNConfig) -> bool:
        return not self.grows(base)

    def check(
        self, init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int
    ) -> None:
        if self.grows(base):
            check_grown(self, "copies", layer, base)
        else:
            check_neurons("copies", layer, base, block, d_model, check_alike)

    def placed(self, layer: FFNConfig, base: FFNConfig) -> FFNConfig:
        return layer if self.grows(base) else super().placed(layer, base)

    def seed(self, ffn: Any, base: Any, init: Init, generator: torch.Generator) -> None:
        if not isinstance(ffn, Beside):
            grow_into(ffn, base, how="copies", noise=init.noise, generator=generator)
            return
        assert isinstance(ffn.layer, PEER)  # check() has looked
        seed_copies(ffn.layer, read_neurons(base), noise=init.noise, generator=generator)
        super().seed(ffn, base, init, generator)

    def finish(self, seeded: Seeded) -> Started:
        blocks = [seeded.model.blocks[i] for i in seeded.bases]
        beside = all(isinstance(block.ffn, Beside) for block in blocks)
        return super().finish(seeded) if beside else Started()


HOW = Copies()
