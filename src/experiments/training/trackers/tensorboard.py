"""TensorBoard's files of a run: `tensorboard --logdir results/SWEEP` shows all its runs."""

import importlib.util
from dataclasses import dataclass

from experiments.training.trackers.tracker import OWNERS, TrackedRun, Tracker

FOLDER = "tensorboard"  # in the run's


@dataclass(frozen=True, kw_only=True)
class TensorBoard:
    """Rows by n_tokens, in the run's folder.

    A run that goes on after an interruption goes on in the same curve: each process begins its file
    with the rows so far, and the files of processes before go.
    """

    def check(self) -> None:
        """Raises ValueError without the package."""
        if importlib.util.find_spec("tensorboard") is None:
            raise ValueError(
                "logger=tensorboard needs the package tensorboard, which is not installed; "
                "pip install -e '.[tensorboard]', or leave it out of logger"
            )

    def start(self, run: TrackedRun) -> Tracker:
        """Begins a file."""
        folder = run.folder / FOLDER
        init = {"folder": str(folder.absolute()), "config": dict(run.config)}
        return Tracker(
            "TensorBoard",
            OWNERS / "tensorboard_owner.py",
            init,
            folder=folder,
            earlier=folder.glob("events.out.tfevents.*"),
        )
