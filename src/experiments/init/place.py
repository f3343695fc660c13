"""Which layers the blocks hold, of a run that starts from weights, and which are trained."""

from experiments.budget.costs import FFNConfig, find_name
from experiments.config.schema import RunConfig
from experiments.init.how import find_how
from experiments.models.blocks import assign_ffns
from experiments.points.layers import bases, chosen, drawn


def placed(config: RunConfig) -> tuple[FFNConfig, ...]:
    """Configs of all blocks' layers. Raises ValueError for a layer that can't start so."""
    trunk, init = config.trunk, config.init
    if init is None:
        return drawn(config)
    layers = assign_ffns(config.model, trunk.base_ffn, trunk.ffn_blocks, config.size)
    how, own, blocks = find_how(init.how), bases(config), chosen(config)
    if getattr(config.model, "query_norm", None) == "batch" and not any(
        map(how.is_own, own_layers(config))
    ):
        raise ValueError(
            "model.query_norm=batch with init: its running statistics are not trained and drift "
            "with the text; set model.query_norm=layer or none"
        )
    for i in blocks:
        how.check(init, config.model, own[i], i, config.d_model)
    return tuple(
        how.placed(config.model, own[i]) if i in blocks else layer for i, layer in enumerate(layers)
    )


def grows(config: RunConfig) -> bool:
    """Whether the chosen blocks' own layers get more experts (init/growth)."""
    init = config.init
    return init is not None and all(map(find_how(init.how).grows, own_layers(config)))


def own_layers(config: RunConfig) -> list[FFNConfig]:
    """Chosen blocks' layers in the model that the weights are of."""
    return [bases(config)[i] for i in chosen(config)]


def trained_blocks(config: RunConfig) -> tuple[int, ...] | None:
    """Blocks whose layer alone is trained; None where all is; none of low-rank adapters."""
    if config.init is None or config.init.train == "all":
        return None
    if config.init.train == "lora":
        return ()
    if config.init.train == "layer" and not config.model.cost(config.d_model).n_params:
        raise ValueError(
            f"init.train=layer with {find_name(config.model)}, which has no parameters; set "
            "another model, or init.train=all or lora"
        )
    if config.init.train == "tables":
        terms = config.model.cost(config.d_model).terms
        if not any(term.n_tables for term in terms):
            raise ValueError(
                f"init.train=tables with {find_name(config.model)}, which has no table of rows; "
                "set model=peer or pkm, or init.train=layer"
            )
    return chosen(config)
