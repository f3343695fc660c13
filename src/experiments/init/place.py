"""Which layers the blocks hold when a run starts from weights."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch

from experiments.budget.costs import FFNConfig
from experiments.config.schema import Init, RunConfig
from experiments.init.growth import can_grow, grown_config
from experiments.init.neurons import check_alike, check_replace, neurons_of
from experiments.init.upcycle import parts_of
from experiments.models.ffn.beside import BesideConfig
from experiments.models.ffn.dense import DenseConfig
from experiments.models.ffn.moe import MoEConfig
from experiments.models.ffn.peer import PEERConfig
from experiments.models.transformer import assign_ffns, chosen_blocks

_BATCH_NORM = (
    "query_norm=batch with init: its running statistics are not trained and drift with the text; "
    "set model.query_norm=layer or none"
)


def placed(config: RunConfig) -> tuple[FFNConfig, ...]:
    """The configs of all blocks' layers. Raises ValueError for a layer that can't start so."""
    trunk, init = config.trunk, config.init
    base, blocks = trunk.base_ffn, trunk.ffn_blocks
    if init is None or init.how == "keep":
        return assign_ffns(config.model, base, blocks, config.size)
    if getattr(config.model, "query_norm", None) == "batch" and not grows(config):
        raise ValueError(f"model.{_BATCH_NORM}")
    chosen, others = chosen_blocks(blocks, config.size), bases(config)
    if grows(config):
        _check_grown(config, [others[i] for i in chosen])
        return assign_ffns(config.model, base, blocks, config.size)
    for i in chosen:
        _check_seeds(init, config.model, others[i], i, config.d_model)
    if init.how in ("replace", "upcycle"):
        return assign_ffns(config.model, base, blocks, config.size)
    return tuple(
        BesideConfig(frozen=ffn, trained=config.model) if i in chosen else ffn
        for i, ffn in enumerate(others)
    )


def grows(config: RunConfig) -> bool:
    """Whether the chosen blocks' own layers get more experts (init/growth.py)."""
    if config.init is None:
        return False
    own = [bases(config)[i] for i in chosen_blocks(config.trunk.ffn_blocks, config.size)]
    return config.init.how == "bias" or (config.init.how == "copies" and all(map(can_grow, own)))


def _check_grown(config: RunConfig, own: Sequence[FFNConfig]) -> None:
    """Raises ValueError unless the layer under study is what each of these grows to."""
    assert config.init is not None
    for layer in own:
        grown = grown_config(layer, config.n_experts or 0, config.init.how)
        if config.model != grown:
            raise ValueError(
                f"init.how={config.init.how}: the layer under study is not the weights' own with "
                "more experts; give n_experts alone, and the rest is theirs"
            )


def bases(config: RunConfig) -> Sequence[FFNConfig]:
    """What each block holds in the model that the weights are of."""
    base = config.trunk.base_ffn
    return base if isinstance(base, Sequence) else (base,) * config.size


def _check_seeds(init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int) -> None:
    """Raises ValueError if the layer can't be seeded from the block's own."""
    how = init.how
    if how == "beside":
        return
    if not isinstance(base, DenseConfig):
        raise ValueError(
            f"init.how={how}: block {block} of the weights holds {_name(base)}, which has no "
            "neurons to copy; choose blocks with a dense layer by trunk.ffn_blocks=[...], or set "
            "init.how=beside"
        )
    with torch.device("meta"):  # shapes alone
        new, own = layer.build(d_model), base.build(d_model)
    if how == "upcycle":
        if not isinstance(layer, MoEConfig):
            raise ValueError(
                f"init.how=upcycle with {_name(layer)}: copies of a whole layer are the experts of "
                "model=moe or moe_fine; set one of them, or init.how=beside"
            )
        check: Any = partial(parts_of, new, own, init.reinit)
    elif not isinstance(layer, PEERConfig):
        raise ValueError(
            f"init.how={how} with {_name(layer)}: only PEER's experts are single neurons; set "
            "model=peer, or init.how=beside"
        )
    else:
        check = partial(check_replace if how == "replace" else check_alike, new, neurons_of(own))
    try:
        check()
    except ValueError as error:
        raise ValueError(f"model.{error} (init.how={how}, block {block})") from None


def _name(config: FFNConfig) -> str:
    return type(config).__name__.removesuffix("Config")


def trained_blocks(config: RunConfig) -> tuple[int, ...] | None:
    """The blocks whose layer alone is trained; None where all is; none of low-rank adapters."""
    if config.init is None or config.init.train == "all":
        return None
    if config.init.train == "lora":
        return ()
    if config.init.train == "layer" and not config.model.cost(config.d_model).n_params:
        raise ValueError(
            f"init.train=layer with {_name(config.model)}, which has no parameters; set another "
            "model, or init.train=all or lora"
        )
    if config.init.train == "tables":
        terms = config.model.cost(config.d_model).terms
        if not any(term.n_tables for term in terms):
            raise ValueError(
                f"init.train=tables with {_name(config.model)}, which has no table of rows; set "
                "model=peer or pkm, or init.train=layer"
            )
    return chosen_blocks(config.trunk.ffn_blocks, config.size)
