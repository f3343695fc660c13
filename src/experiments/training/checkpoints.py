"""Checkpoints of a run: the last and the one before, each whole, and which to go on from."""

import random
import time
import warnings
from collections.abc import Callable, Container
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch

from experiments.records.files import CHECKPOINT_NAME
from experiments.records.kept import keep, kept
from experiments.system import interruption, started
from experiments.system.agreement import Look, look_at
from experiments.system.disk import PARTIAL, explained, remove, rename, sync_file
from experiments.system.table_files import drop_unnamed

LAST, PREVIOUS = CHECKPOINT_NAME, "previous.ckpt"
_TEMPORARY = f"last{PARTIAL}"
VOTE_SECONDS, VOTE_STEPS = 1.0, 20  # between two votes of the ranks, at most


class Checkpoint(pl.Callback):
    """Saves every so many minutes, at the end, and when the run is asked to stop; then it stops.
    Those of the steps `starts` are kept: where a trunk's branches start, or by trainer.keep_at.

    The file is written under a temporary name; the one before stays as previous.ckpt until the
    run has ended. Tables that processes have columns of are in files of a new folder by then, which
    it names: so all take their places by its one rename.
    All ranks save together: rank 0's clock and any rank's signal decide. They vote about once a
    second, for each time the hosts wait for their GPUs.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float,
        resumed: Path | None = None,
        starts: Container[int] = (),
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """resumed: the checkpoint that the run goes on from. starts: the steps that are kept.
        check(): before each write of rank 0, raises if it must not write.
        """
        self.folder, self.seconds, self.starts = folder, 60 * minutes, starts
        self.check = check
        self._last_is_whole = resumed == folder / LAST
        self.saved = time.perf_counter()
        self.stopped = False
        self.step = self.saved_step = 0
        self._votes = _Votes()

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        interruption.listen_again()  # Lightning's handler of TERM ends the run without saving
        self.step = trainer.global_step
        if self._last_is_whole:  # a kill may have come before it was kept, or a branch since
            self._keep(trainer)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any, **__: Any
    ) -> None:
        if trainer.global_step == self.step:
            return  # in the middle of one, whose gradients a checkpoint would lose
        self.step = trainer.global_step
        due = self._is_time()
        stop = interruption.received() is not None
        if trainer.world_size > 1:
            due, stop = self._votes.agreed(trainer, due, stop)
        if stop:
            self.stopped = trainer.should_stop = True  # and on_train_end saves
        elif due or self.step in self.starts:
            self.save(trainer)
            self._keep(trainer)

    def is_due(self, step: int) -> bool:
        """Whether one may have to be saved with so many steps taken. Of one process alone."""
        return self._is_time() or interruption.received() is not None or step in self.starts

    def _is_time(self) -> bool:
        return time.perf_counter() - self.saved > self.seconds

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.global_step != self.saved_step:  # else previous.ckpt would be as far as the last
            self.save(trainer)
        self._keep(trainer)

    def _keep(self, trainer: pl.Trainer) -> None:
        """Last checkpoint, which is of this step, if that is to be kept."""
        if trainer.is_global_zero and trainer.global_step in self.starts:
            keep(self.folder / LAST, trainer.global_step)

    def save(self, trainer: pl.Trainer) -> None:
        """Writes the checkpoint; a run killed meanwhile keeps the one before."""
        temporary = self.folder / _TEMPORARY
        if trainer.is_global_zero:
            self.check()
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            self.check()  # a large one takes its time
            last = self.folder / LAST
            with explained(last):
                if self._last_is_whole and last.exists():  # a damaged one must not replace a whole
                    rename(last, self.folder / PREVIOUS)
                rename(temporary, last)
                sync_file(self.folder)
            drop_unnamed(self.folder, (LAST, PREVIOUS, *_kept(self.folder)))
        self._last_is_whole = True
        self.saved, self.saved_step = time.perf_counter(), trainer.global_step
        interruption.note_unsaved(False)


class _Votes:
    """Votes of several ranks. The step of the next one is rank 0's to say, by its own speed."""

    def __init__(self) -> None:
        self.last: tuple[int, float] | None = None  # its step, and when
        self.next_step = 0

    def agreed(self, trainer: pl.Trainer, due: bool, stop: bool) -> tuple[bool, bool]:
        """Whether a checkpoint is due, by rank 0, and whether any rank has to stop. Neither, at the
        steps between two votes.
        """
        step = trainer.global_step
        if step < self.next_step:
            return False, False
        now, pause = time.perf_counter(), 1
        if self.last is not None:
            speed = (step - self.last[0]) / max(now - self.last[1], 1e-9)
            pause = min(VOTE_STEPS, max(1, int(VOTE_SECONDS * speed)))
        mine = [due, stop, pause] if trainer.is_global_zero else [False, stop, 0]
        votes = torch.tensor(mine, dtype=torch.int32, device=trainer.strategy.root_device)
        torch.distributed.all_reduce(votes, torch.distributed.ReduceOp.MAX)
        due, stop, pause = votes.tolist()
        self.last, self.next_step = (step, now), step + pause
        return bool(due), bool(stop)


class RandomState(pl.Callback):
    """Generators' states, as part of a checkpoint: what is drawn after a resume is the same."""

    def state_dict(self) -> dict[str, Any]:
        """States of all generators, this process's GPU's too: plain values, which load without
        unpickling.
        """
        kind, keys, *rest = np.random.get_state()
        return {
            "python": random.getstate(),
            "numpy": (kind, [int(key) for key in keys], *rest),
            "torch": torch.get_rng_state(),
            # of other GPUs it sees nothing is drawn, and where it goes on it may see more or fewer
            "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Puts them back."""
        random.setstate(state_dict["python"])
        np.random.set_state(tuple(state_dict["numpy"]))
        torch.set_rng_state(state_dict["torch"])
        if torch.cuda.is_available() and state_dict["cuda"]:
            torch.cuda.set_rng_state(state_dict["cuda"][0])  # rank 0's: all draw as often


def to_resume_from(folder: Path, look: Callable[[Path], Look] = look_at) -> Path | None:
    """Newest checkpoint that is whole for all processes, or None; rank 0 warns of one that is
    not. look: by the path, that of all the run's processes; this one's is all where it is not said.

    Raises RuntimeError where some see checkpoints and others see none.
    """
    found = []
    for name in (LAST, PREVIOUS):
        path = folder / name
        found.append(look(path))
        if found[-1].why is None:
            return path
        if found[-1].seen_by and started.rank() == 0:
            warnings.warn(f"{path} is damaged ({found[-1].why}); it is ignored", stacklevel=2)
    blind = frozenset.intersection(*(each.missed_by for each in found))
    if blind and any(each.seen_by for each in found):
        raise RuntimeError(
            f"process {min(blind)} sees no checkpoint in {folder}, and others do; let all read it, "
            "and start again"
        )
    return None


def forget_previous(folder: Path) -> None:
    """Removes the checkpoint before the last: a finished run needs one. Where it went on from
    previous.ckpt without a step, for it was killed between two renames, that is the one.
    """
    previous, last, others = folder / PREVIOUS, folder / LAST, _kept(folder)
    if previous.exists() and not last.exists():
        rename(previous, last)
    remove(previous)
    drop_unnamed(folder, (LAST, *others))


def _kept(folder: Path) -> list[str]:
    """Those that are kept beside the last."""
    return [path.name for path in kept(folder).values()]
