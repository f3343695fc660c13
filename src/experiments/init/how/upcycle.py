"""A mixture of experts whose experts are copies of the weights' own layer (init/upcycle.py)."""

import torch

from experiments.budget.costs import FFNConfig, find_name
from experiments.config.schema import Init
from experiments.init.how import How
from experiments.init.how._seeds import check_mlp, named
from experiments.init.upcycle import count_parts, upcycle
from experiments.models.ffn._base import MLP
from experiments.models.ffn.moe import MoE, MoEConfig


class Upcycle(How):
    """Exact for some routings; the model is taken for another one."""

    def check(
        self, init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int
    ) -> None:
        check_mlp("upcycle", base, block)
        if not isinstance(layer, MoEConfig):
            raise ValueError(
                f"init.how=upcycle with {find_name(layer)}: copies of a whole layer are the "
                "experts of model=moe or moe_fine; set one of them, or init.how=beside"
            )
        with torch.device("meta"):  # shapes alone
            new, own = layer.build(d_model), base.build(d_model)
        with named("upcycle", block):
            count_parts(new, own)

    def seed(self, ffn: MoE, base: MLP, init: Init, generator: torch.Generator) -> None:
        upcycle(ffn, base, reinit=init.reinit, generator=generator)


HOW = Upcycle()
