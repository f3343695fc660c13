"""Low-rank adapters beside frozen weights: init.train=lora."""

from dataclasses import dataclass, replace

from experiments.config.schema import RunConfig
from experiments.models.transformer import TransformerConfig
from experiments.points.point import Draft, RunPart


@dataclass(frozen=True, kw_only=True)
class LowRankAdapters(RunPart):
    """Adapters of this rank beside all linear maps of the blocks, which alone are trained."""

    by_columns = True
    rank: int

    @classmethod
    def of(cls, config: RunConfig) -> "LowRankAdapters | None":
        init = config.init
        return None if init is None or init.train != "lora" else cls(rank=init.lora_rank)

    def shape(self, config: RunConfig, transformer: TransformerConfig) -> TransformerConfig:
        return replace(transformer, trained_blocks=(), lora_rank=self.rank)

    def refuse(self, draft: Draft) -> None:
        if self.rank > draft.transformer.d_model:
            raise ValueError(
                f"init.lora_rank={self.rank} is above d_model={draft.transformer.d_model}, and no "
                "linear map has a higher rank; lower it"
            )
