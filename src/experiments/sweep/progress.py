"""How far a sweep is: each run's progress.json, and the lines and the bar a person sees."""

import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from experiments.records.app_record import Record
from experiments.sweep.app import app_of
from experiments.sweep.point import Point
from experiments.system.disk import write_text_atomically
from experiments.system.json_files import read_json
from experiments.system.text_table import count, duration

PROGRESS_NAME = "progress.json"
_HEARTBEAT = 1.0  # seconds between writes
_MEASURED = 5.0  # seconds of a speed that is said: the first steps are slow


class Heartbeat:
    """Writes a run's last history row to progress.json, at most once a second, with what its plan
    says of it (Point.planned).
    """

    def __init__(self, point: Point) -> None:
        self.path, self.last = point.run_dir / PROGRESS_NAME, -math.inf
        self.planned = dict(point.planned)

    def __call__(self, row: dict[str, float]) -> None:
        now = time.monotonic()  # a clock may be set back
        if now - self.last >= _HEARTBEAT:
            self.last = now
            text = json.dumps({**row, **self.planned, "updated": time.time()})
            write_text_atomically(self.path, text, durable=False)  # tells of what goes on


def read_progress(run_dir: Path) -> dict[str, float]:
    """Last heartbeat's numbers; nothing before the first, or if the file can't be read."""
    try:
        row = read_json(run_dir / PROGRESS_NAME)
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(row, dict):
        return {}
    return {k: v for k, v in row.items() if type(v) in (int, float) and abs(v) < 1e300}


class SweepProgress:
    """A bar over the FLOPs of these points, or of points like them, on a terminal; elsewhere a line
    every trainer.log_every_seconds.

    seconds: the plan's estimate of them all, said until there is a measured speed; None: not known.
    """

    def __init__(self, planned: Sequence[Point], seconds: float | None) -> None:
        from tqdm import tqdm

        handling, self.n_points = planned[0].handling, len(planned)
        self.name, self.every = f"sweep {handling.sweep}", handling.log_every_seconds
        self.app = app_of(planned)
        self.total_flops = sum(point.own_work for point in planned)
        self.n_done, self.done_flops, self.estimate = 0, 0.0, seconds
        self.start = self.last_line = time.monotonic()
        self.since: tuple[float, float] | None = None  # when its first FLOPs were seen, and these
        self.bar = tqdm(
            total=self.total_flops,
            unit=self.app.unit.removesuffix("s"),
            unit_scale=True,
            disable=not sys.stderr.isatty(),
            dynamic_ncols=True,
            smoothing=0.05,
        )

    def finished(self, point: Point, record: Record | None, why: str = "") -> None:
        """A line for a run that has ended; without a record, why."""
        self.n_done += 1
        self.done_flops += point.own_work
        if record is None:
            text = why
        elif record.status == "done":
            text = self.app.ended_text(record)
        else:
            text = record.status + (f": {_last_line(record.error)}" if record.error else "")
        self.say(f"[{self.n_done}/{self.n_points}] {point.describe()}: {text}")

    def passed_over(self, point: Point, why: str) -> None:
        """A line for a point that is none of these after all."""
        self.n_points -= 1
        self.total_flops -= point.own_work
        self.say(f"{point.describe()}: {why}")

    def expect(self, n_points: int, flops: float) -> None:
        """So many points, of these FLOPs in all, are under way or to come."""
        self.n_points = self.n_done + n_points
        self.total_flops = self.done_flops + flops
        self.bar.total = self.total_flops

    def say(self, line: str) -> None:
        if self.bar.disable:
            print(line, flush=True)
        else:
            self.bar.write(line, file=sys.stdout)

    def update(self, running: Sequence[Point]) -> None:
        """Refreshes the bar, or prints a line if it is time."""
        rows = [(point, read_progress(point.run_dir)) for point in running]
        done = [(p, row.get("work", row.get("flops"))) for p, row in rows]
        flops = self.done_flops + sum(max(0.0, n - p.work_before) for p, n in done if n is not None)
        texts = [f"{point.describe()}: {_row_text(row)}" for point, row in rows]
        now = time.monotonic()
        if self.since is None and flops:
            self.since = now, flops
        start, first = self.since or (now, flops)  # processes start slowly
        left = time_left(now - start, flops - first, self.total_flops - flops, self._planned(flops))
        counts = f"{self.n_done} of {self.n_points} runs"
        self.bar.set_description_str(f"{counts}, {left}", refresh=False)
        self.bar.set_postfix_str(" | ".join(texts), refresh=False)
        self.bar.update(flops - self.bar.n)
        if self.bar.disable and now - self.last_line >= self.every:
            self.last_line = now
            self.say(
                f"{self.name}: {counts}, "
                f"{100 * flops / (self.total_flops or 1):.0f} % of the {self.app.unit}, "
                f"{duration(now - self.start)} gone, {left}; " + " | ".join(texts)
            )

    def close(self) -> None:
        self.bar.close()

    def _planned(self, flops: float) -> float | None:
        """Estimated seconds of what is left after these FLOPs."""
        return self.estimate and self.estimate * (1 - flops / (self.total_flops or 1))


def time_left(seconds: float, flops: float, rest: float, estimate: float | None) -> str:
    """How much is left: the rest, in FLOPs as what is done, at its speed. Before five seconds of
    that the plan's estimate of the rest, marked as one; "?" without it.
    """
    if flops > 0 and seconds >= _MEASURED:
        return f"{duration(seconds * rest / flops)} left"
    return "? left" if estimate is None else f"{duration(estimate)} left (estimated)"


def _row_text(row: dict[str, float]) -> str:
    if not {"step", "n_steps"} <= row.keys():
        return "starting"
    parts = [f"step {row['step']:.0f}/{row['n_steps']:.0f}"]
    if "loss" in row:
        parts.append(f"loss {row['loss']:.3f}")
    if "tokens_per_second" in row:
        parts.append(f"{count(row['tokens_per_second'])} tokens/s")
    return ", ".join(parts)


def _last_line(text: str) -> str:
    return text.strip().splitlines()[-1]
