"""Memory of a process that trains a run, by its config."""

import functools
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from experiments.budget.memory import Memory, plan_memory
from experiments.config.optim import Optim
from experiments.models.freezing import freeze
from experiments.models.transformer import Transformer, TransformerConfig
from experiments.optim.groups import optimizers, taker, trained_parameters
from experiments.points.point import Draft


def estimate_memory(draft: Draft, table_ranks: int = 1, precision: str | None = None) -> Memory:
    """Bytes of one process. table_ranks: how many have the columns of its tables between them.
    precision: Lightning's name; None: that of the draft's device.
    """
    config, transformer, ranks = draft.config, draft.transformer, draft.ranks
    moments = moment_bytes(config.optim, transformer, table_ranks)
    return plan_memory(
        draft.cost,
        transformer.block_costs(),
        d_model=transformer.d_model,
        vocab_size=transformer.vocab_size,
        micro_tokens=ranks.n_sequences * config.data.seq_len,
        n_micro=ranks.n_micro,
        n_ranks=ranks.world_size,
        precision=precision or draft.device.precision,
        table_gradient=config.optim.table_gradient,
        table_dtype=getattr(config.model, "table_dtype", "float32"),
        n_models=1 + sum(part.n_models for part in draft.parts),
        moments=moments,
        table_ranks=table_ranks,
        recompute=config.trainer.recompute,
        n_norms=max(1, len(transformer.residual.norms) // 2),
    )


@functools.lru_cache(maxsize=256)
def moment_bytes(
    optim: Optim, transformer: TransformerConfig, table_ranks: int = 1, *, by_rows: bool = True
) -> int:
    """Bytes of all that the optimizer keeps of a model's parameters, on one process; by_rows=False:
    without those of tables with gradients of rows.
    """
    among, total = optimizers(optim), 0
    for parameter in trained_parameters(trained_shapes(transformer), 1.0, optim):
        if by_rows or not parameter.by_rows:
            with _Shapes():
                state = taker(parameter, among).moments(parameter.tensor)
            n_bytes = sum(moment.nbytes for moment in state.values() if moment.dim())
            total += n_bytes // table_ranks if parameter.kind == "table" else n_bytes
    return total


class _Shapes(TorchFunctionMode):
    """Leaves out initial values. On the meta device drawing them changes nothing, and imports the
    compiler, for seconds, as zeros_like does.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        if func is torch.randn:
            func = torch.empty
        if func is torch.zeros_like:
            like, of = args[0], kwargs or {}
            return torch.empty(like.shape, dtype=of.get("dtype") or like.dtype, device=like.device)
        if func is torch.Tensor.mul and isinstance(args[1], float):  # of what is drawn, by its size
            return args[0]
        return func(*args, **(kwargs or {}))


def list_shapes(transformer: TransformerConfig) -> Transformer:
    """Model without its numbers."""
    with torch.device("meta"), _Shapes():
        return transformer.build()


@functools.lru_cache(maxsize=256)  # the points of a sweep share shapes
def trained_shapes(transformer: TransformerConfig) -> Transformer:
    """list_shapes, where the parameters that are trained are those that ask for gradients. To look
    at: others have the same one.
    """
    model = list_shapes(transformer)
    freeze(model)
    return model
