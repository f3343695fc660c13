"""The parametrization in which a learning rate is carried to other sizes: optim.parametrization."""

from dataclasses import dataclass, replace

from experiments.config.schema import RunConfig
from experiments.models.parametrization import base_of, base_shapes
from experiments.models.transformer import TransformerConfig
from experiments.points.point import Draft, RunPart


@dataclass(frozen=True, kw_only=True)
class Parametrization(RunPart):
    """Another parametrization than the standard one (models/parametrization.py)."""

    @classmethod
    def of(cls, config: RunConfig) -> "Parametrization | None":
        return None if config.optim.parametrization == "sp" else cls()

    def shape(self, config: RunConfig, transformer: TransformerConfig) -> TransformerConfig:
        return replace(transformer, base=base_of(config))

    def refuse(self, draft: Draft) -> None:
        """Raises ValueError for a matrix without a role."""
        base_shapes(draft.transformer)
