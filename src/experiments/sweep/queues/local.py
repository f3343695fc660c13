"""This machine: points in processes of their own, some at a time (workers.py)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from experiments.config.constraints import AtLeast1
from experiments.sweep.app import app_of
from experiments.sweep.point import Point
from experiments.sweep.queue import Queue, launchers

if TYPE_CHECKING:
    from experiments.sweep.workers import Pool


@dataclass(frozen=True, kw_only=True)
class Local(Queue):
    """n_workers: points at once; None for as many as the GPUs take, or one a core.
    points_per_gpu: points that share a GPU.
    """

    n_workers: AtLeast1 | None = None
    points_per_gpu: AtLeast1 = 1

    def check(self, points: Sequence[Point], n: int) -> None:
        super().check(points, n)
        if points:
            slots = self._slots(points, n)
            n_sharing = max(slots.count(slot) for slot in slots)
            app_of(points).check_fits(points, n_sharing, self._limit(points))

    def plan(self, points: Sequence[Point]) -> list[str]:
        from experiments.system.cards import cards

        lines = super().plan(points)
        if not _of_gpus(points):
            return lines
        if not cards():
            where = f"hydra/launcher={launchers(of_ranks=True)}"
            return [f"this machine has no GPU, which they are planned for: use {where}"]
        slots = self._slots(points, len(points))
        names = ", ".join(dict.fromkeys(str(slot) for slot in slots))
        return [f"this machine: {len(slots)} at a time, on GPU {names}"]

    @contextmanager
    def session(self, what: str, planned: Sequence[Point]) -> "Iterator[Pool]":
        from experiments.sweep.workers import Pool

        slots = self._slots(planned, len(planned))
        wanted = min(self.n_workers or 1, len(planned))
        if len(slots) < wanted:
            print(
                f"hydra.launcher.n_workers={self.n_workers} is {len(slots)} here: "
                f"{_gpus(len(set(slots)))}, points_per_gpu={self.points_per_gpu}; "
                f"hydra.launcher.points_per_gpu={-(-wanted // len(set(slots)))} lets points share"
            )
        pool = Pool(slots, what, planned)
        try:
            yield pool
        finally:
            pool.close()

    def _slots(self, points: Sequence[Point], n: int) -> tuple[str | None, ...]:
        """GPU of each of n points that run at once; None without one."""
        from experiments.system.cards import cards
        from experiments.system.environment import usable_cores

        if self.n_workers is not None and self.n_workers < 1:
            raise ValueError(f"hydra.launcher.n_workers={self.n_workers} must be at least 1")
        if _of_gpus(points):
            return self._on_gpus(cards())[: max(1, min(self.n_workers or n, n))]
        return (None,) * max(1, min(self.n_workers or usable_cores(), n))

    def _on_gpus(self, names: "Sequence[str]") -> tuple[str, ...]:
        """One point on each first, before GPUs are shared."""
        if not names:
            raise ValueError(
                "the points are planned for a GPU, and torch sees none on this machine; use "
                f"hydra/launcher={launchers(of_ranks=True)}, or trainer.accelerator=cpu"
            )
        return tuple(names) * self.points_per_gpu

    def _limit(self, points: Sequence[Point]) -> str:
        """Setting that says how many points share a device's memory."""
        return "hydra.launcher." + ("points_per_gpu" if _of_gpus(points) else "n_workers")


def _of_gpus(points: Sequence[Point]) -> bool:
    return any(point.needs.gpu for point in points)


def _gpus(n: int) -> str:
    return f"{n} GPU{'s' if n > 1 else ''}"
