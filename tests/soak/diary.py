"""What the trained processes did, step by step, written down outside of the run's folder.

A run that comes out to the bit may have lost hours on the way: one that starts over gives the same.
The diary shows where each process started, which steps it took, and what it had saved by then.
"""

import json
import os
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from experiments.system.seals import damage_of
from experiments.training.checkpoints import LAST, PREVIOUS, Checkpoint
from tests.soak.judge import DOUBLED, LOST, Problem

Entry = dict[str, Any]  # run, pid, at (s), what (start, step, saved), step; a start's disk, seconds
_LATE = 1  # steps that a process may take after another has begun: it looks once a step


def keep(path: Path) -> None:
    """From now on this process, and those that it forks, append what their training does."""
    if Checkpoint.save.__module__ == __name__:
        return  # whoever forked it does

    def note(checkpoint: Checkpoint, step: int, what: str, **more: Any) -> None:
        entry = {"run": checkpoint.folder.name, "pid": os.getpid(), "at": time.perf_counter()}
        line = json.dumps({**entry, "what": what, "step": step, **more})
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.write(file, line.encode() + b"\n")
        os.close(file)

    start, end, save = Checkpoint.on_train_start, Checkpoint.on_train_batch_end, Checkpoint.save
    is_due, noted = Checkpoint.is_due, dict[Checkpoint, int]()

    def on_train_start(self: Checkpoint, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        if trainer.is_global_zero:
            disk = newest(self.folder)
            note(self, trainer.global_step, "start", disk=disk, seconds=self.seconds)
        start(self, trainer, module)

    def asked(self: Checkpoint, step: int) -> bool:
        """Notes a step within a turn of Lightning's loop: of one process alone."""
        note(self, step, "step")
        noted[self] = step
        return is_due(self, step)

    def on_train_batch_end(
        self: Checkpoint, trainer: pl.Trainer, module: pl.LightningModule, *more: Any
    ) -> None:
        step = trainer.global_step
        if trainer.is_global_zero and step not in (self.step, noted.get(self)):
            note(self, step, "step")
        end(self, trainer, module, *more)

    def saved(self: Checkpoint, trainer: pl.Trainer) -> None:
        save(self, trainer)
        if trainer.is_global_zero:
            note(self, trainer.global_step, "saved")

    Checkpoint.is_due = asked
    Checkpoint.on_train_start = on_train_start
    Checkpoint.on_train_batch_end = on_train_batch_end
    Checkpoint.save = saved


def newest(run_dir: Path) -> int | None:
    """The step of the newest whole checkpoint in a folder, or None."""
    for name in (LAST, PREVIOUS):
        path = run_dir / name
        if path.exists() and damage_of(path) is None:
            return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    return None


def read(path: Path) -> dict[str, list[Entry]]:
    """The entries of each run, in order."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        found[entry["run"]].append(entry)
    return found


def lost_work(
    entries: Sequence[Entry], *, first: int = 0, trusted: bool = True, locked: bool = True
) -> Iterator[Problem]:
    """Where training began too early, took a step twice that was saved, or saved too seldom.

    first: the step of a start without a checkpoint. trusted: no checkpoint was damaged on purpose,
    so that what was saved once is never taken again. locked: two processes can't train at once.
    """
    own: dict[int, list[Entry]] = {}  # of each process, since its last start
    late: Counter[int] = Counter()  # of a process: steps after a later one has begun
    saved, newest_pid = 0, None
    for entry in entries:
        what, step, pid = entry["what"], entry["step"], entry["pid"]
        if what == "start":
            expected = first if entry["disk"] is None else entry["disk"]
            if step != expected and locked:
                text = f"started at step {step}, and the newest whole checkpoint is of {expected}"
                yield Problem(kind=LOST, text=text)
            if step < saved and trusted:
                yield Problem(kind=LOST, text=f"started at step {step}, after {saved} was saved")
            own[pid], newest_pid = [entry], pid
            continue
        own[pid].append(entry)
        if what == "saved":
            saved = max(saved, step)
        else:
            late[pid] += pid != newest_pid
            yield from _of_step(own[pid])
    for pid in late:
        if late[pid] > _LATE and locked:
            text = f"pid {pid} took {late[pid]} steps after another process had begun"
            yield Problem(kind=DOUBLED, text=text)


def _of_step(own: Sequence[Entry]) -> Iterator[Problem]:
    """Of a process's newest entry: its steps follow each other, and none is long unsaved."""
    *_, before, step = (entry for entry in own if entry["what"] != "saved")
    if step["step"] != before["step"] + 1:
        yield Problem(kind=LOST, text=f"step {step['step']} follows {before['step']}")
    kept = next(entry for entry in reversed(own) if entry["what"] != "step")
    unsaved = before["at"] - kept["at"]  # its end was no time to save, by a clock read after `at`
    if before["what"] == "step" and unsaved > own[0]["seconds"]:
        text = f"step {before['step']} came {unsaved:.3f} s after {kept['step']}, and wasn't saved"
        yield Problem(kind=LOST, text=text)
