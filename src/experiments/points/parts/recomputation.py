"""Fewer activations for more products: trainer.recompute (models/recomputed.py)."""

from dataclasses import dataclass

from experiments.config.schema import RunConfig
from experiments.points.point import Draft, RunPart


@dataclass(frozen=True, kw_only=True)
class Recomputation(RunPart):
    """Halves of blocks that can be run again in the backward pass. Nothing else changes."""

    compiles = False
    by_columns = True

    @classmethod
    def of(cls, config: RunConfig) -> "Recomputation | None":
        return cls() if config.trainer.recompute else None

    def refuse(self, draft: Draft) -> None:
        trainer = draft.config.trainer
        why = None
        if trainer.compile is True:
            why = "trainer.compile=true, which decides itself what to keep"
        elif trainer.trunk == "fused":
            why = "trainer.trunk=fused, whose operators keep what they keep"
        if why is not None:
            raise ValueError(f"trainer.recompute=true with {why}; set it to auto")
