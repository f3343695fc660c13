"""How training computes the trunk: by fused operators of a CPU, again in part, or as written."""

from collections.abc import Iterable

from experiments.config.trainer import TrunkChoice
from experiments.models.fused import HEAD, Fused, why_not_fused
from experiments.models.recomputed import Recomputed
from experiments.models.transformer import Transformer
from experiments.points.training_part import TrainingPart


def resolve_trunk(
    choice: TrunkChoice,
    accelerator: str,
    model: Transformer,
    parts: Iterable[TrainingPart],
    *,
    compiled: bool,
    recompute: bool = False,
) -> Fused | Recomputed | None:
    """Model's pass, as trainer.trunk says and the machine allows; None: as it is written.

    auto fuses what can be, on a CPU, unless torch.compile makes the trunk or halves of it are to be
    recomputed. Raises ValueError if fused is asked for and a part of the model can't be.
    """
    if recompute:
        return Recomputed(model)
    if choice == "eager" or accelerator != "cpu" or compiled or why_not_fused() is not None:
        if choice == "fused":
            raise ValueError(f"trainer.trunk=fused: {why_not_fused()}; use auto or eager")
        return None
    fused = Fused(model)
    readers = [type(part).__name__ for part in parts if part.reads_logits]
    if readers:
        fused.eager[HEAD] = f"{readers[0]} reads its logits"
    if choice == "fused" and fused.eager:
        part, why = next(iter(fused.eager.items()))
        raise ValueError(f"trainer.trunk=fused, and {part} can't be: {why}; use auto or eager")
    return fused
