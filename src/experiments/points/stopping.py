"""Which runs trainer.stop_hopeless can end early (training/hopeless.py)."""

from experiments.config.schedules import TRUNK
from experiments.config.schema import RunConfig
from experiments.system.distributed import Ranks


def check_stopping(config: RunConfig, ranks: Ranks) -> None:
    """Raises ValueError where no finished run of the sweep says what a run can still reach."""
    within, optim = config.trainer.stop_hopeless, config.optim
    if within is None:
        return
    name = f"trainer.stop_hopeless={within:g}"
    if ranks.world_size > 1:
        raise ValueError(
            f"{name} with {ranks.world_size} processes a run: they would have to agree on the step "
            "where it stops; set it to null, or train by one process"
        )
    if optim.schedule == TRUNK or optim.branch_from is not None:
        what = "schedule=trunk" if optim.schedule == TRUNK else f"branch_from={optim.branch_from}"
        raise ValueError(
            f"{name} with optim.{what}: a trunk has no end to compare, and a branch shares its "
            "steps; set it to null"
        )
