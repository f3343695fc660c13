"""A mixture of experts whose experts are copies of the weights' own layer (init/upcycle.py)."""

import torch

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.how import How
from experiments.init.how._seeds import check_dense, name_of, named
from experiments.init.upcycle import parts_of, upcycle
from experiments.models.ffn._base import FFN
from experiments.models.ffn.dense import Dense
from experiments.models.ffn.moe import MoE, MoEConfig


class Upcycle(How):
    """Exact for some routings; the model is taken for another one."""

    def check(
        self, init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int
    ) -> None:
        check_dense("upcycle", base, block)
        if not isinstance(layer, MoEConfig):
            raise ValueError(
                f"init.how=upcycle with {name_of(layer)}: copies of a whole layer are the experts "
                "of model=moe or moe_fine; set one of them, or init.how=beside"
            )
        with torch.device("meta"):  # shapes alone
            new, own = layer.build(d_model), base.build(d_model)
        assert isinstance(own, Dense)
        with named("upcycle", block):
            parts_of(new, own, init.reinit)

    def seed(self, ffn: FFN, base: FFN, init: Init, generator: torch.Generator) -> None:
        assert isinstance(ffn, MoE)
        assert isinstance(base, Dense)  # check() has looked
        upcycle(ffn, base, reinit=init.reinit, generator=generator)


HOW = Upcycle()
