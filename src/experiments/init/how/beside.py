"""Weights' own layer, and the layer under study beside it, with outputs of zero."""

import torch

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.how import How, Seeded, Started
from experiments.init.how._blocks import is_exact
from experiments.models.ffn._base import FFN
from experiments.models.ffn.beside import Beside, BesideConfig


class BesideOwn(How):
    """Keeps the weights' own function, to the bit."""

    def is_exact(self, base: FFNConfig) -> bool:
        return True

    def placed(self, layer: FFNConfig, base: FFNConfig) -> FFNConfig:
        return BesideConfig(frozen=base, trained=layer)

    def seed(self, ffn: Beside, base: FFN, init: Init, generator: torch.Generator) -> None:
        ffn.ffn = base
        ffn.silence()

    def finish(self, seeded: Seeded) -> Started:
        blocks = list(seeded.bases)
        return Started(exact=is_exact(seeded.model, blocks, next(seeded.batches)[:1]))


HOW = BesideOwn()
