"""Layer under study in place of the weights' own: seeded from its neurons, then distilled."""

from dataclasses import replace

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init
from experiments.init.distil import distil
from experiments.init.how import How, Seeded, Started
from experiments.init.how._blocks import ffn_inputs
from experiments.init.how._seeds import check_neurons
from experiments.init.neurons import check_replace, read_neurons, seed_replace
from experiments.models.ffn._base import MLP
from experiments.models.ffn.peer import PEER
from experiments.models.transformer import get_block

_DISTIL_BATCH = 256  # tokens of a step: many steps of few tokens were better than few of many
_AT_ONCE = 1024  # tokens of a teacher's forward pass


class Replace(How):
    """At a token the layer leaves out the neurons that it does not retrieve."""

    def check(
        self, init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int
    ) -> None:
        check_neurons("replace", layer, base, block, d_model, check_replace)

    def seed(self, ffn: PEER, base: MLP, init: Init, generator: torch.Generator) -> MLP:
        seed_replace(ffn, read_neurons(base), generator=generator)
        return base

    def finish(self, seeded: Seeded) -> Started:
        """Each layer, first block first, learns what its teacher makes of the same inputs."""
        model, init = seeded.model, seeded.init
        if not init.distil_tokens:
            return Started()
        tokens: list[Tensor] = []
        while sum(batch.numel() for batch in tokens) < init.distil_tokens:
            tokens.append(next(seeded.batches))
        config, results, flops = model.config, {}, 0.0
        n_tokens = sum(batch.numel() for batch in tokens)
        for i, teacher in seeded.bases.items():
            assert teacher is not None
            inputs = torch.cat([ffn_inputs(model, batch, i) for batch in tokens])
            with torch.no_grad():
                targets = torch.cat([teacher(part) for part in inputs.split(_AT_ONCE)])
            results[i] = distil(
                get_block(model, i).ffn,
                inputs,
                targets,
                cost=config.ffns[i].cost(config.d_model),
                lr=init.distil_lr,
                n_steps=max(1, len(inputs) // _DISTIL_BATCH),
                batch_tokens=_DISTIL_BATCH,
                generator=seeded.generator,
            )
            below = replace(config, ffns=config.ffns[: i + 1], trained_blocks=None, lora_rank=None)
            head = 2 * config.d_model * config.vocab_size
            flops += n_tokens * (below.cost().forward_flops - head) + results[i].flops
        return Started(flops=flops, distilled=results)


HOW = Replace()
