"""A run of one's own app while it runs: its steps, its checkpoint, its history (own_app.py)."""

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from experiments.config.late import begun
from experiments.records.files import CHECKPOINT_NAME, HISTORY_NAME
from experiments.sweep.app import Progress
from experiments.sweep.point import Point
from experiments.system import interruption
from experiments.system.claims import Claim
from experiments.system.disk import opened, whole_file
from experiments.system.regular_files import read_regular

_ROWS = 0.1  # seconds between rows of the history, at least
_CHECKS = 1.0  # seconds between looks whether the run is still this process's


@dataclass(frozen=True, kw_only=True)
class Saved:
    """Where a run goes on. content: what its app saved then."""

    step: int
    content: bytes


class Run:
    """A run that goes on now, as OwnApp.run is given it. config: the point's. folder: results/
    <sweep>/<run_id>, for files of its own. n_threads: CPU threads that it may use; None: all.
    """

    def __init__(
        self,
        point: Point,
        claim: Claim,
        progress: Progress,
        n_threads: int | None,
        save_seconds: float,
    ) -> None:
        self.config: Mapping[str, Any] = begun(point.raw, point.run_dir)
        self.folder, self.n_threads = point.run_dir, n_threads
        self.n_steps = 0  # those that are taken
        self._point, self._claim, self._progress = point, claim, progress
        self._names: tuple[str, ...] = ()
        self._history: IO[bytes] | None = None
        self._row = self._check = -math.inf  # by time.monotonic
        self._saved, self._save_seconds = time.monotonic(), save_seconds

    def saved(self) -> Saved | None:
        """Last checkpoint; None at the start. To be asked once, before the first step."""
        try:
            content = read_regular(self.folder / CHECKPOINT_NAME)
        except FileNotFoundError:
            return None
        head, _, rest = content.partition(b"\n")
        try:
            step = json.loads(head)["step"]
        except (ValueError, TypeError, KeyError):
            step = None
        if type(step) is not int or step < 0:
            raise RuntimeError(
                f"{self.folder / CHECKPOINT_NAME} is no checkpoint; delete it, and the same "
                "command starts the run again"
            )
        self.n_steps = step
        return Saved(step=self.n_steps, content=rest)

    def step(self, n_steps: int, save: Callable[[], bytes], **numbers: float) -> None:
        """To be called after each step. n_steps: those that are taken. save(): all that it takes to
        go on from here, as bytes. numbers: of the step, the same ones at each; `loss` is shown.

        Saves every OwnApp.save_seconds. If the process was asked to stop, saves and raises
        Interrupted.
        """
        self.n_steps, now = n_steps, time.monotonic()
        asked, is_last = interruption.received() is not None, n_steps >= self._point.n_steps
        if now - self._check >= _CHECKS:
            self._claim.check()
            self._check = now
        if asked or is_last or now - self._row >= _ROWS:
            self._write(n_steps, numbers)
            self._row = now
        if asked or now - self._saved >= self._save_seconds:
            self._save(n_steps, save())
        else:
            interruption.note_unsaved(True)
        if asked:
            raise interruption.Interrupted(interruption.received() or "", n_steps)

    def close(self) -> None:
        if self._history is not None:
            self._history.close()

    def _save(self, n_steps: int, content: bytes) -> None:
        self._claim.check()
        head = json.dumps({"step": n_steps}).encode()
        with whole_file(self.folder / CHECKPOINT_NAME) as file:
            file.write(head + b"\n" + content)
        interruption.note_unsaved(False)
        self._saved = time.monotonic()

    def _write(self, n_steps: int, numbers: Mapping[str, float]) -> None:
        if self._history is None:
            self._history = self._opened(n_steps, numbers)
        cells = [f"{float(numbers.get(name, math.nan)):.9g}" for name in self._names]
        self._history.write((",".join([str(n_steps), *cells]) + "\n").encode())
        self._history.flush()
        work = self._point.own_work * n_steps / max(1, self._point.n_steps)
        self._progress({"step": n_steps, "work": work, **numbers})

    def _opened(self, n_steps: int, numbers: Mapping[str, float]) -> IO[bytes]:
        """History, without the rows of steps that are taken again. Columns are those of its first
        row, of whichever process.
        """
        path, rows = self.folder / HISTORY_NAME, list[str]()
        with suppress(FileNotFoundError):
            rows = read_regular(path).decode("utf-8", "replace").splitlines(keepends=True)
        kept = [row for row in rows[1:] if _step_of(row) < n_steps]
        head = rows[0] if kept else ",".join(("step", *numbers)) + "\n"
        if rows != [head, *kept]:
            with whole_file(path, durable=bool(rows)) as file:
                file.write("".join([head, *kept]).encode())
        self._names = tuple(head.rstrip("\n").split(",")[1:])
        return opened(path, "ab")


@contextmanager
def log_lines() -> Iterator[None]:
    """Within, log lines go to stderr from INFO on, in the form of Hydra's default; in a sweep this
    is the run's log.txt. Not if the app, or Hydra, has said where they go.
    """
    root = logging.getLogger()
    if root.handlers:
        yield
        return
    handler, level = logging.StreamHandler(), root.level
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)


def _step_of(row: str) -> float:
    text = row.partition(",")[0]
    return int(text) if text.isdigit() and row.endswith("\n") else math.inf
