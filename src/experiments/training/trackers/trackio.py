"""Trackio, whose curves are in a database of this user's: `trackio show --project experiments`."""

import importlib.util
from dataclasses import dataclass

from experiments.config.constraints import WandbName
from experiments.training.trackers.tracker import OWNERS, TrackedRun, Tracker


@dataclass(frozen=True, kw_only=True)
class Trackio:
    """A run by its run id, in the group of its sweep, in TRACKIO_DIR or trackio's own folder.

    A run that goes on after an interruption is the same run: its rows are written again as its
    checkpoint has them. On a server or a Space, which trackio can't delete from, rows of steps that
    are there are not sent again.
    """

    project: WandbName = "experiments"

    def check(self) -> None:
        """Raises ValueError without the package."""
        if importlib.util.find_spec("trackio") is None:
            raise ValueError(
                "logger=trackio needs the package trackio, which is not installed; "
                "pip install -e '.[trackio]', or leave it out of logger"
            )

    def start(self, run: TrackedRun) -> Tracker:
        """Begins the run, or goes on with it."""
        init = {
            "project": self.project,
            "name": run.run_id,
            "group": run.sweep,
            "config": dict(run.config),
        }
        return Tracker("trackio", OWNERS / "trackio_owner.py", init, folder=None)
