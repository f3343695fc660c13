"""What the trained processes did, step by step, written down outside of the run's folder.

A run that comes out to the bit may have lost hours on the way: one that starts over gives the same.
The diary shows where each process started, which steps it took, and what it had saved by then.
"""

import errno
import fcntl
import json
import math
import os
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from experiments.system.claims import CLAIM_NAME
from experiments.system.seals import find_damage
from experiments.training.checkpoints import LAST, PREVIOUS, VOTE_STEPS, Checkpoint
from tests.soak.judge import DOUBLED, LOST, WRONG, Problem

# run, pid, at (s), what (start, step, saved), step; a start's disk, seconds, n_ranks and has_lock;
# kept of what was saved: whether the checkpoint before is previous.ckpt now
Entry = dict[str, Any]
_LATE = 1  # steps that a process may take after another has begun: it looks once a step
_ASKED = 2  # steps that it may end after a signal: the one it is in, and one that it had counted


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
            more = {"n_ranks": trainer.world_size, "has_lock": _is_locked(self.folder / CLAIM_NAME)}
            note(self, trainer.global_step, "start", disk=disk, seconds=self.seconds, **more)
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
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        before = _inode(last) if self._last_is_whole and last.exists() else _inode(previous)
        save(self, trainer)
        if trainer.is_global_zero:
            kept = before in (None, _inode(previous))
            note(self, trainer.global_step, "saved", kept=kept)

    Checkpoint.is_due = asked
    Checkpoint.on_train_start = on_train_start
    Checkpoint.on_train_batch_end = on_train_batch_end
    Checkpoint.save = saved


def at_steps(act: Callable[[int | None], None]) -> None:
    """From now on this process calls act(step) with each number of steps that it has taken, but for
    the last, and act(None) when its training ends. Before keep(); of one process alone.
    """
    is_due, ended = Checkpoint.is_due, Checkpoint.on_train_end

    def asked(self: Checkpoint, step: int) -> bool:
        act(step)
        return is_due(self, step)

    def on_train_end(self: Checkpoint, *arguments: Any) -> None:
        act(None)
        ended(self, *arguments)

    Checkpoint.is_due, Checkpoint.on_train_end = asked, on_train_end


def _inode(path: Path) -> int | None:
    """Number of the file itself, whatever its name; None if there is none."""
    return path.stat().st_ino if path.exists() else None


def _is_locked(path: Path) -> bool | None:
    """Whether anybody has the lock of the file. None where there are no locks."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError as error:
            return True if error.errno == errno.EWOULDBLOCK else None
    return False


def newest(run_dir: Path) -> int | None:
    """Step of the newest whole checkpoint in a folder, or None."""
    for name in (LAST, PREVIOUS):
        path = run_dir / name
        if path.exists() and find_damage(path) is None:
            return int(torch.load(path, map_location="cpu", weights_only=True)["global_step"])
    return None


def read(path: Path) -> dict[str, list[Entry]]:
    """Entries of each run, in order."""
    found: dict[str, list[Entry]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        entry = json.loads(line)
        found[entry["run"]].append(entry)
    return found


def lost_work(
    entries: Sequence[Entry],
    *,
    first: int = 0,
    trusted: bool = True,
    locked: bool = True,
    asked: Mapping[int, float] | None = None,
) -> Iterator[Problem]:
    """Where training began too early or without a lock, took a step twice that was saved, saved too
    seldom, didn't keep the checkpoint before, or went on when it was asked to stop.

    first: the step of a start without a checkpoint. trusted: no checkpoint was damaged on purpose,
    so that what was saved once is never taken again. locked: two processes can't train at once.
    asked: when a process, or one that it trains with, was sent a signal that asks to stop.
    """
    own: dict[int, list[Entry]] = {}  # of each process, since its last start
    late: Counter[int] = Counter()  # of a process: steps after a later one has begun
    deaf: Counter[int] = Counter()  # of a process: steps after it was asked to stop
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
            if entry["has_lock"] is False and locked:
                yield Problem(kind=WRONG, text=f"started at step {step} without a lock")
            own[pid], newest_pid = [entry], pid
            continue
        own[pid].append(entry)
        if what == "saved":
            saved = max(saved, step)
            if not entry["kept"]:
                text = f"when step {step} was saved, the checkpoint before did not stay"
                yield Problem(kind=LOST, text=text)
        else:
            late[pid] += pid != newest_pid
            deaf[pid] += entry["at"] > (asked or {}).get(pid, math.inf)
            yield from _of_step(own[pid])
    for pid in late:
        if late[pid] > _LATE and locked:
            text = f"pid {pid} took {late[pid]} steps after another process had begun"
            yield Problem(kind=DOUBLED, text=text)
    for pid in deaf:
        if deaf[pid] > _ASKED + _unheard(own[pid]):
            text = f"pid {pid} took {deaf[pid]} steps after it was asked to stop"
            yield Problem(kind=WRONG, text=text)


def _unheard(own: Sequence[Entry]) -> int:
    """Steps that a process takes before it does what is due: ranks wait for their next vote."""
    return VOTE_STEPS if own[0]["n_ranks"] > 1 else 0


def _of_step(own: Sequence[Entry]) -> Iterator[Problem]:
    """Of a process's newest entry: its steps follow each other, and none is long unsaved."""
    *_, before, step = (entry for entry in own if entry["what"] != "saved")
    if step["step"] != before["step"] + 1:
        yield Problem(kind=LOST, text=f"step {step['step']} follows {before['step']}")
    kept = next(entry for entry in reversed(own) if entry["what"] != "step")
    # the end of that step was no time to save, by a clock read after `at`
    due = step["step"] - 1 - _unheard(own)
    late = [e for e in own if e["what"] == "step" and kept["step"] < e["step"] <= due]
    unsaved = late[-1]["at"] - kept["at"] if late else 0.0
    if unsaved > own[0]["seconds"]:
        name = f"step {late[-1]['step']} came {unsaved:.3f} s after {kept['step']}"
        yield Problem(kind=LOST, text=f"{name}, and wasn't saved")
