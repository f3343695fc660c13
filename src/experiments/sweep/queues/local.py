"""This machine: points in processes of their own, some at a time (workers.py)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.config.constraints import AtLeast1
from experiments.sweep.queue import Queue

if TYPE_CHECKING:
    from experiments.points.point import Point
    from experiments.sweep.workers import Pool


@dataclass(frozen=True, kw_only=True)
class Local(Queue):
    """n_workers: points at once; None for one a GPU, or one a core."""

    n_workers: AtLeast1 | None = None

    def check(self, points: "Sequence[Point]", n: int) -> None:
        from experiments.sweep.planning import check_fits

        super().check(points, n)
        if points:
            check_fits(points, self._n_at_once(points, n))

    @contextmanager
    def session(self, what: str, planned: "Sequence[Point]") -> "Iterator[Pool]":
        from experiments.sweep.workers import Pool

        pool = Pool(self._n_at_once(planned, len(planned)), what, planned)
        try:
            yield pool
        finally:
            pool.close()

    def _n_at_once(self, points: "Sequence[Point]", n: int) -> int:
        """How many of n points run at once."""
        import torch

        from experiments.system.environment import usable_cores

        if self.n_workers is not None and self.n_workers < 1:
            raise ValueError(f"hydra.launcher.n_workers={self.n_workers} must be at least 1")
        on_gpu = points[0].device.accelerator == "cuda"
        available = torch.cuda.device_count() if on_gpu else usable_cores()
        return max(1, min(self.n_workers or available, n))
