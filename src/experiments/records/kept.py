"""Checkpoints that a trunk keeps for its branches, and who still waits for them. Stdlib only.

In a trunk's folder, branches/<steps>-<run id> is an empty file for each branch that is to start
after so many steps, from when its sweep enters it until it has ended; step-<steps>.ckpt is the
trunk as it was then. Tables that it has in files of their own (tables/<steps>-...) stay as long as
it does. Sweeps of any folder enter their branches there, so that no checkpoint goes
which one of them needs.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from experiments.records.files import CHECKPOINT_NAME
from experiments.records.finished import find_outcome
from experiments.system.disk import (
    PARTIAL,
    explained,
    make_folder,
    opened,
    remove,
    remove_tree,
    rename,
    second_name,
    sync_file,
)
from experiments.system.locks import lock

FOLDER = "branches"
_TABLES = "tables"  # system/table_files.py
_ENTRY, _KEPT = re.compile(r"(\d+)-(\w+)"), re.compile(r"step-(\d+)\.ckpt")


class Starts:
    """Steps of a trunk where branches are to start, as its folder says at the moment."""

    def __init__(self, trunk_dir: Path) -> None:
        self._folder = trunk_dir / FOLDER
        self._seen, self._steps = -1, frozenset[int]()

    def __contains__(self, n_steps: object) -> bool:
        """A look at the folder's date: microseconds."""
        try:
            changed = self._folder.stat().st_mtime_ns
        except OSError:
            return False
        if changed != self._seen:
            self._seen, self._steps = changed, frozenset(n for n, _ in _entries(self._folder))
        return n_steps in self._steps


def enter(trunk_dir: Path, run_id: str, n_steps: int) -> None:
    """Notes that a branch is to start there. Where nobody may write, nothing is dropped either."""
    with suppress(PermissionError), _locked(trunk_dir) as folder:
        opened(folder / f"{n_steps}-{run_id}", "ab").close()


def release(trunk_dir: Path, run_id: str) -> None:
    """Notes that a branch has ended, and drops the checkpoints that none waits for."""
    if not (trunk_dir / FOLDER).is_dir():
        return
    with suppress(PermissionError), _locked(trunk_dir) as folder:
        for n_steps, name in _entries(folder):
            if name == run_id:
                remove(folder / f"{n_steps}-{run_id}")
        waiting = {n_steps for n_steps, _ in _entries(folder)}
        for n_steps, path in kept(trunk_dir).items():
            if n_steps not in waiting:
                remove(path)
                _drop_tables(trunk_dir, n_steps)


def _drop_tables(trunk_dir: Path, n_steps: int) -> None:
    """Of a trunk that has ended elsewhere. One that goes on drops what it needs no more itself, and
    where it has ended its last checkpoint is.
    """
    ended = find_outcome(trunk_dir)
    if ended is not None and ended.status == "done" and ended.n_steps != n_steps:
        for folder in (trunk_dir / _TABLES).glob(f"{n_steps}-*"):
            remove_tree(folder)


def kept_path(trunk_dir: Path, n_steps: int) -> Path:
    """Path of the checkpoint that is kept of that step."""
    return trunk_dir / f"step-{n_steps}.ckpt"


def kept(trunk_dir: Path) -> dict[int, Path]:
    """Checkpoints that are there, by step."""
    found = ((path, _KEPT.fullmatch(path.name)) for path in trunk_dir.glob("step-*.ckpt"))
    return {int(match[1]): path for path, match in found if match}


def keep(checkpoint: Path, n_steps: int) -> None:
    """Keeps a checkpoint as that of a step, in its own folder: a second name of the same file, or
    a copy where the file system has no such names.
    """
    path = kept_path(checkpoint.parent, n_steps)
    temporary = path.with_name(path.name + PARTIAL)
    with explained(path):
        remove(temporary)
        second_name(checkpoint, temporary)
        sync_file(temporary)  # of a copy its content
        rename(temporary, path)
        remove(temporary)  # a second name of `path` already: renaming did nothing
        sync_file(path.parent)


def is_there(trunk_dir: Path, n_steps: int) -> bool:
    """Whether a branch that starts there need not wait: its checkpoint is kept, or the trunk has
    gone on and kept none.
    """
    if kept_path(trunk_dir, n_steps).exists():
        return True
    ended = find_outcome(trunk_dir)
    return ended is not None and ended.status == "done" and ended.n_steps >= n_steps


def usable(trunk_dir: Path, n_steps: int) -> list[tuple[int, Path]]:
    """Steps and checkpoints that lead to that step, the nearest first."""
    found = {n: path for n, path in kept(trunk_dir).items() if n <= n_steps}
    ended, last = find_outcome(trunk_dir), trunk_dir / CHECKPOINT_NAME
    if ended is not None and ended.status == "done" and ended.n_steps <= n_steps and last.exists():
        found.setdefault(ended.n_steps, last)
    return sorted(found.items(), reverse=True)


@contextmanager
def _locked(trunk_dir: Path) -> Iterator[Path]:
    folder = trunk_dir / FOLDER
    make_folder(folder)
    with opened(folder / ".lock", "w") as file:
        lock(file)
        yield folder


def _entries(folder: Path) -> list[tuple[int, str]]:
    names = (_ENTRY.fullmatch(name) for name in os.listdir(folder))  # noqa: PTH208
    return [(int(match[1]), match[2]) for match in names if match]
