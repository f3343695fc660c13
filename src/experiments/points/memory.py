"""The memory of a process that trains a run, by its config."""

from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from experiments.budget.memory import Memory, plan_memory
from experiments.config.schema import RunConfig
from experiments.init.freeze import freeze
from experiments.models.roles import declared_roles
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.points.point import Draft


def memory_of(draft: Draft, table_ranks: int = 1) -> Memory:
    """Bytes of one process. table_ranks: how many have the columns of its tables between them."""
    config, transformer, ranks = draft.config, draft.transformer, draft.ranks
    return plan_memory(
        draft.cost,
        transformer.block_costs(),
        d_model=transformer.d_model,
        vocab_size=transformer.vocab_size,
        micro_tokens=ranks.n_sequences * config.data.seq_len,
        n_micro=ranks.n_micro,
        n_ranks=ranks.world_size,
        precision=draft.device.precision,
        table_gradient=config.optim.table_gradient,
        table_state=config.optim.table_state,
        table_dtype=getattr(config.model, "table_dtype", "float32"),
        n_models=1 + sum(part.n_models for part in draft.parts),
        n_one_moment=_n_of_muon(config, transformer),
        table_ranks=table_ranks,
        recompute=config.trainer.recompute,
    )


class _Undrawn(TorchFunctionMode):
    """Leaves out initial values. On the meta device drawing them changes nothing, and imports the
    compiler.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            func = torch.empty
        if func is torch.Tensor.mul and isinstance(args[1], float):  # of what is drawn, by its size
            return args[0]
        return func(*args, **(kwargs or {}))


def shapes_of(transformer: TransformerConfig) -> Transformer:
    """The model without its numbers."""
    with torch.device("meta"), _Undrawn():
        return transformer.build()


def _n_of_muon(config: RunConfig, transformer: TransformerConfig) -> int:
    """The trained parameters that have one moment."""
    if config.optim.matrices != "muon":
        return 0
    model = shapes_of(transformer)
    freeze(model)
    roles = declared_roles(model)
    matrices = ((roles.get(name), p) for name, p in model.named_parameters() if p.requires_grad)
    return sum(p.numel() for role, p in matrices if role is not None and role.is_muons)
