"""Product with a mistake in it, which the harness must see: --mutant NAME."""

import math
import random
import signal
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import numpy as np

from experiments.system import claims, interruption, locks, seals
from experiments.training import starting
from experiments.training.checkpoints import LAST, PREVIOUS, Checkpoint, RandomState
from experiments.training.history import History


def _replace(owner: Any, name: str, mistaken: Any) -> None:
    """Raises AttributeError for what the product has no more: the mistake would be none."""
    getattr(owner, name)
    setattr(owner, name, mistaken)


def never_resume() -> None:
    """Each attempt begins with the first step."""
    _replace(starting, "to_resume_from", lambda folder, look: None)


def torch_generator() -> None:
    """A resume forgets torch's generator."""

    def load(self: RandomState, state: dict[str, Any]) -> None:
        random.setstate(state["python"])
        np.random.set_state(tuple(state["numpy"]))

    _replace(RandomState, "load_state_dict", load)


def python_generator() -> None:
    """A resume forgets Python's generator."""
    usual = RandomState.load_state_dict

    def load(self: RandomState, state: dict[str, Any]) -> None:
        kept = random.getstate()
        usual(self, state)
        random.setstate(kept)

    _replace(RandomState, "load_state_dict", load)


def in_place() -> None:
    """A checkpoint is written over the one before."""

    def save(self: Checkpoint, trainer: pl.Trainer) -> None:
        trainer.save_checkpoint(self.folder / LAST)
        self.saved_step = trainer.global_step

    _replace(Checkpoint, "save", save)


def saved_at_the_end() -> None:
    """No checkpoint on the way."""
    usual = Checkpoint.on_train_batch_end

    def end(self: Checkpoint, *arguments: Any) -> None:
        self.saved = math.inf
        usual(self, *arguments)

    _replace(Checkpoint, "on_train_batch_end", end)


def history_twice() -> None:
    """A resume appends to what history.csv has."""
    _replace(History, "_write", lambda self, trainer, plan: None)


def unsynced() -> None:
    """Checkpoints are not seen to the disk."""
    _replace(seals, "sync", lambda descriptor: None)


def ignores_term() -> None:
    """A run goes on at SIGTERM."""
    usual = interruption._handle
    mistaken = {signal.SIGTERM: lambda number, frame: None}
    _replace(interruption, "_handle", lambda n, frame: mistaken.get(n, usual)(n, frame))


def previous_removed() -> None:
    """The checkpoint before goes as soon as there is a new one."""
    usual = Checkpoint.save

    def save(self: Checkpoint, trainer: pl.Trainer) -> None:
        usual(self, trainer)
        (self.folder / PREVIOUS).unlink(missing_ok=True)

    _replace(Checkpoint, "save", save)


def no_lock() -> None:
    """Nothing is locked."""
    _replace(locks, "_flock", lambda file, how: True)


def no_lease() -> None:
    """A claim without a lock that can be seen is free at once."""
    _replace(claims, "LEASE", 0.0)


def not_renewed() -> None:
    """Nobody renews a claim."""
    _replace(claims, "BEAT", math.inf)


MUTANTS: dict[str, Callable[[], None]] = {
    made.__name__: made
    for made in (
        never_resume, torch_generator, python_generator, in_place, saved_at_the_end, history_twice,
        unsynced, ignores_term, previous_removed, no_lock, no_lease, not_renewed,
    )
}  # fmt: skip
