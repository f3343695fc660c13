"""Parametrization in which a learning rate is carried to other sizes: optim.parametrization."""

from dataclasses import dataclass, replace

from experiments.config.schema import RunConfig
from experiments.models.parametrization import Base
from experiments.models.transformer import TransformerConfig
from experiments.points.point import Draft, RunPart


@dataclass(frozen=True, kw_only=True)
class Parametrization(RunPart):
    """Another parametrization than the standard one (models/parametrization.py)."""

    by_columns = True  # its factors are of whole shapes

    @classmethod
    def of(cls, config: RunConfig) -> "Parametrization | None":
        return None if config.optim.parametrization == "sp" else cls()

    def shape(self, config: RunConfig, transformer: TransformerConfig) -> TransformerConfig:
        """With the model at whose size optim.lr is right.

        Raises ValueError for a base that can't be built, and for a run that starts from weights.
        """
        optim, ladder = config.optim, config.ladder
        given = f"optim.parametrization={optim.parametrization}"
        if config.init is not None:
            raise ValueError(
                f"{given} says how weights start and what logits are multiplied by, and a run "
                "that starts from weights has those of another; set optim.parametrization=sp, or "
                "init=none"
            )
        base = Base(
            d_model=optim.lr_d_model,
            d_head=optim.lr_d_head or ladder.d_head,
            n_layers=optim.lr_n_layers if optim.parametrization == "completep" else None,
        )
        name = "ladder.d_head" if optim.lr_d_head is None else "optim.lr_d_head"
        why = None
        if base.d_model % base.d_head:
            why = f"so a whole number of heads of {name}={base.d_head}"
        else:
            try:
                config.trunk.attention.check(base.d_model, base.d_head)
            except ValueError as error:
                why = str(error)
        if why is not None:
            raise ValueError(
                f"optim.lr_d_model={base.d_model} with {given} must be the width of a model, "
                f"{why}; change ladder.lr_d_model, at which ladder.lr is right"
            )
        return replace(transformer, base=base)

    def refuse(self, draft: Draft) -> None:
        """Raises ValueError for a matrix without a role."""
        draft.transformer.base_shapes()
