"""Hydra's side of a sweep: it composes the points and hands them all to experiments.sweep.

Hydra's own sweeper writes multirun.yaml before a point is known to be good, and its basic
launcher runs every point in one process, where state leaks from one to the next.
"""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig


class PointSweeper(BasicSweeper):
    """The basic sweeper's grid, or a union of such grids, handed to the launcher whole.

    params are the values that every grid shares, each of grids adds its own; what the command line
    says beats both, in all grids. A point of two grids is one.
    """

    def __init__(
        self,
        max_batch_size: int | None,
        params: dict[str, str] | None = None,
        grids: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        super().__init__(max_batch_size, params)
        self.grids = grids

    def sweep(self, arguments: list[str]) -> Any:
        """Composes nothing and writes nothing; returns what the launcher returns."""
        assert self.hydra_context is not None
        assert self.launcher is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        shared = self._parse_config()
        points: list[Sequence[str]] = []
        for grid in self.grids or [{}]:
            own = [f"{name}={value}" for name, value in grid.items()]
            # Of one name the last counts, so the command line's beats the grid's
            overrides = parser.parse_overrides([*shared, *own, *arguments])
            (product,) = self.split_arguments(overrides, None)
            earlier = {frozenset(point) for point in points}
            points += [point for point in product if frozenset(point) not in earlier]
        return self.launcher.launch(points, initial_job_idx=0)


class _PointLauncher(Launcher):
    """Composes the points and hands them all to `_run`."""

    def setup(
        self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig
    ) -> None:
        """Keeps what launch needs."""
        self.hydra_context, self.config = hydra_context, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Plans all the points before the first starts; exits with 1 if any of them failed."""
        from experiments.run import resolve

        loader = self.hydra_context.config_loader
        raws = [resolve(loader.load_sweep_config(self.config, list(o))) for o in job_overrides]
        self._run(raws)
        return []

    @abstractmethod
    def _run(self, raws: Sequence[Any]) -> None:
        """Executes the points of these resolved configs."""


class LocalLauncher(_PointLauncher):
    """Runs the points on this machine, n_workers at once."""

    def __init__(self, n_workers: int | None = None) -> None:
        super().__init__()
        self.n_workers = n_workers

    def _run(self, raws: Sequence[Any]) -> None:
        from experiments.sweep.local import run_sweep

        run_sweep(raws, self.n_workers)


class SlurmLauncher(_PointLauncher):
    """Submits the points as arrays to Slurm and returns; see conf/hydra/launcher/slurm.yaml."""

    def __init__(self, **resources: Any) -> None:
        super().__init__()
        self.resources = resources

    def _run(self, raws: Sequence[Any]) -> None:
        from experiments.config import read
        from experiments.sweep.cluster import submit_sweep
        from experiments.sweep.slurm import Resources

        plain = {k: list(v) if isinstance(v, ListConfig) else v for k, v in self.resources.items()}
        submit_sweep(raws, read(Resources, plain, "hydra.launcher"))
