"""All that shows a run's curves, started."""

from experiments.config.schema import Logger
from experiments.training.trackers.tracker import TrackedRun, Tracker
from experiments.training.trackers.weights_and_biases import start_wandb


def start_trackers(settings: Logger, run: TrackedRun) -> list[Tracker]:
    """W&B, unless it is disabled, and the other tools that logger names. Waits for none of them."""
    wandb = start_wandb(settings, run)
    others = [tool.start(run) for tool in (settings.tools or {}).values()]
    return others if wandb is None else [wandb, *others]
