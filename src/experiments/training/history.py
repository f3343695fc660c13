"""Rows of a run's training: in its checkpoints, and as a table in history.csv."""

import csv
import io
import math
import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from experiments.budget.plan import Plan
from experiments.records.files import HISTORY_NAME
from experiments.records.record import RunRecord
from experiments.system.disk import explained, opened, remove, write_text_atomically
from experiments.system.regular_files import read_regular_text
from experiments.system.seals import find_damage
from experiments.system.table_files import load_plain
from experiments.training.module import DIVERGED_LOSS, LanguageModel

Kept = tuple[float, ...]  # of a row, what checkpoints keep
COLUMNS = ("step", "n_tokens", "flops", "loss", "lr", "tokens_per_second", "seconds")
_KEPT = ("step", "loss", "lr", "tokens_per_second", "seconds")  # the plan gives the others


class History(pl.Callback):
    """Appends a row every n steps to history.csv and hands it to `also` (trackers, progress).

    Columns: step, n_tokens, flops, loss (mean since the last row, nats/token), lr,
    tokens_per_second, seconds (of training in this process, without those of compiling).

    The rows are part of every checkpoint, and a resumed run writes history.csv from them: a file
    that a kill, a full disk or a hand has damaged is whole again, and rows past the checkpoint are
    gone, for their steps are taken again. The trackers are handed the same rows, to begin with.
    """

    def __init__(
        self,
        path: Path,
        every: int,
        also: Callable[[dict[str, float]], None],
        compiling: Callable[[], float] = lambda: 0.0,
        check: Callable[[], None] = lambda: None,
        is_trunk: bool = False,
        begin: Callable[[list[dict[str, float]]], None] = lambda rows: None,
    ) -> None:
        """compiling(): seconds so far in which torch.compile worked, which are no training.
        check(): before each write of rank 0, raises if it must not write. is_trunk: its end has no
        row of its own, for its branches have one there only if a run from scratch has.
        begin(rows): is told the rows before this process's first, once.
        """
        self.path, self.every, self.also, self.compiling = path, every, also, compiling
        self.check, self.is_trunk, self.begin = check, is_trunk, begin
        self._kept: list[Kept] = []
        self._restored = False

    seconds: float = 0.0  # of training in this process
    steps_here: int = 0

    def state_dict(self) -> dict[str, Any]:
        """rows, (n, 3) float64: step, loss, lr; clock, (n, 2): tokens_per_second and seconds, which
        no two runs have alike. 40 bytes a row.
        """
        kept = torch.tensor(self._kept, dtype=torch.float64).reshape(-1, len(_KEPT))
        return {"rows": kept[:, :3].clone(), "clock": kept[:, 3:].clone()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes a checkpoint's rows."""
        kept = torch.cat([state_dict["rows"], state_dict["clock"]], dim=1)
        self._kept = [tuple(row) for row in kept.tolist()]
        self._restored = True

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # here, for training does not start where every step is taken already
        if self._restored:
            self._write(trainer, _plan(pl_module))

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        assert isinstance(pl_module, LanguageModel)
        self._trainer, self._module = trainer, pl_module
        self.start = self.last_time = self._now()
        self.first_step = self.last_step = trainer.global_step
        if not self._restored:  # no checkpoint, or one from before they had rows
            self._kept = read_rows(self.path, self.last_step, _plan(pl_module))
            self._write(trainer, _plan(pl_module))
        self.last_row = int(self._kept[-1][0]) if self._kept else 0
        if self._kept and _has_diverged(self._kept[-1][1], pl_module):
            trainer.should_stop = True  # as before the resume

    @property
    def rows(self) -> list[tuple[float, float]]:
        """Step and loss of each row."""
        return [(row[0], row[1]) for row in self._kept]

    def after_step(self, step: int) -> None:
        """With so many steps taken."""
        trainer, pl_module, plan = self._trainer, self._module, self._module.plan
        ends = step == plan.n_steps and not self.is_trunk
        if step % self.every and not ends:
            return
        loss = float(pl_module.step_losses[self.last_row : step].double().mean())
        now = self._now()
        rate = (step - self.last_step) * plan.batch_tokens / (now - self.last_time)
        lr = trainer.optimizers[0].param_groups[0]["lr"]
        self._kept.append((step, loss, lr, rate, now - self.start))
        self.seconds, self.steps_here = now - self.start, step - self.first_step
        self.last_step, self.last_time, self.last_row = step, now, step
        if trainer.is_global_zero:
            row = _row(self._kept[-1], plan)
            self.check()
            self._append(row)
            self.also(row)
        if _has_diverged(loss, pl_module):
            trainer.should_stop = True

    def _now(self) -> float:
        return time.perf_counter() - self.compiling()

    def _append(self, row: dict[str, float]) -> None:
        new = not self.path.exists()
        with (
            explained(self.path),
            opened(self.path, "a", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, COLUMNS)
            if new:
                writer.writeheader()
            writer.writerow(row)

    def _write(self, trainer: pl.Trainer, plan: Plan) -> None:
        """history.csv as the rows say, and whatever shows them. Rank 0's task."""
        if not trainer.is_global_zero:
            return
        self.check()
        rows = [_row(kept, plan) for kept in self._kept]
        if rows:
            _write_rows(self.path, rows)
        else:
            remove(self.path)
        self.begin(rows)


def repair(run_dir: Path, record: RunRecord) -> bool:
    """Writes history.csv of a finished run from its checkpoint. False if that is damaged or, of an
    earlier version, has no rows.
    """
    checkpoint = run_dir / "last.ckpt"
    if find_damage(checkpoint) is not None:
        return False
    loaded = load_plain(checkpoint, mmap=True)
    history = History(run_dir / HISTORY_NAME, 1, lambda row: None)
    state = loaded.get("callbacks", {}).get(history.state_key)
    if not state:
        return False
    history.load_state_dict(state)
    of_step = record.batch_tokens, record.flops_per_token
    _write_rows(history.path, (_as_row(kept, *of_step) for kept in history._kept))
    return True


def _write_rows(path: Path, rows: Iterable[dict[str, float]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    write_text_atomically(path, text.getvalue())


def read_rows(path: Path, last_step: int, plan: Plan) -> list[Kept]:
    """Rows of a history.csv up to a step, as checkpoints keep them; warns of damaged ones.

    A row is taken for whole if its tokens are its step's and its step is later than the one before.
    """
    kept: list[Kept] = []
    n_damaged, before = 0, 0.0
    text = read_regular_text(path, "replace") if path.exists() else ""
    for line in text.splitlines():
        if line == ",".join(COLUMNS):
            continue
        try:
            row = dict(zip(COLUMNS, map(float, line.split(",")), strict=True))
        except ValueError:
            n_damaged += 1
            continue
        step = row["step"]
        if row["n_tokens"] != step * plan.batch_tokens or not before < step:
            n_damaged += 1
        elif step <= last_step:
            kept.append(tuple(row[name] for name in _KEPT))
            before = step
    if last_step and (n_damaged or not kept):
        warnings.warn(
            f"{path} is damaged ({n_damaged} rows, {len(kept)} whole ones are kept), "
            "and the checkpoint is of a version that has no copy of them",
            stacklevel=2,
        )
    return kept


def _row(kept: Kept, plan: Plan) -> dict[str, float]:
    """A row of history.csv."""
    return _as_row(kept, plan.batch_tokens, plan.cost.training_flops)


def _as_row(kept: Kept, batch_tokens: int, flops_per_token: float) -> dict[str, float]:
    step, *rest = kept
    n_tokens = int(step) * batch_tokens
    values = (int(step), n_tokens, n_tokens * flops_per_token, *rest)
    return dict(zip(COLUMNS, values, strict=True))


def _has_diverged(loss: float, module: pl.LightningModule) -> bool:
    assert isinstance(module, LanguageModel)
    return not loss < DIVERGED_LOSS * math.log(module.model.config.vocab_size)


def _plan(module: pl.LightningModule) -> Plan:
    assert isinstance(module, LanguageModel)
    return module.plan
