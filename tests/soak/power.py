"""Loss of power: what a disk keeps of a folder whose files were not all seen to it.

The model is of a system that keeps what it was asked to and nothing more. A file's content is there
as it was at its last fsync, a folder's names as at the folder's; the rest may be lost or not.
"""

import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

Names = dict[str, tuple[int, bool]]  # name -> inode, and whether it is a folder
LOSSES = ("power", "names", "some")  # all of the rest, contents alone, or a part at random


class Disk:
    """A folder's files, and what of them is durable. All that is there at first is.

    Inodes stand for files and folders; each known one is held open, so that no other gets its
    number.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._contents: dict[int, bytes] = {}
        self._names: dict[int, Names] = {}
        self._held: list[int] = []
        for path in (root, *root.rglob("*")):
            descriptor = os.open(path, os.O_RDONLY)
            self._note(descriptor)
            os.close(descriptor)
        usual = os.fsync

        def fsync(file: int | object) -> None:
            descriptor = file if isinstance(file, int) else file.fileno()
            usual(descriptor)
            self._note(descriptor)

        os.fsync = fsync

    def _note(self, descriptor: int) -> None:
        """Its content, or its names, are durable as they are now."""
        found = os.fstat(descriptor)
        self._held.append(os.dup(descriptor))
        if stat.S_ISDIR(found.st_mode):
            self._names[found.st_ino] = _names_in(Path(f"/proc/self/fd/{descriptor}"))
        elif stat.S_ISREG(found.st_mode):
            self._contents[found.st_ino] = Path(f"/proc/self/fd/{descriptor}").read_bytes()

    def lose(self, how: str, rng: random.Random, target: Path) -> None:
        """Writes what is left, a new folder. how: one of LOSSES."""
        now = {path.stat().st_ino: path for path in (self.root, *self.root.rglob("*"))}
        modes = {number: path.stat().st_mode for number, path in now.items()}

        def content(number: int) -> bytes:
            kept = self._contents.get(number, b"")
            if how == "some" and number in now:
                whole = now[number].read_bytes()
                if whole.startswith(kept):  # else it was written over
                    return whole[: rng.randint(len(kept), len(whole))]
            return kept

        def names(number: int) -> Names:
            current = number in now and (how == "names" or (how == "some" and rng.random() < 0.5))
            return _names_in(now[number]) if current else self._names.get(number, {})

        def put(number: int, is_folder: bool, path: Path) -> None:
            if is_folder:
                path.mkdir()
                for name, (inner, inner_is_folder) in sorted(names(number).items()):
                    put(inner, inner_is_folder, path / name)
            else:
                path.write_bytes(content(number))
            if number in modes:
                path.chmod(stat.S_IMODE(modes[number]))

        put(self.root.stat().st_ino, True, target)


def on_exit(act: Callable[[], None]) -> None:
    """Has this forked process call act() as the last thing that it does."""
    usual = os._exit

    def last(code: int) -> None:
        act()
        usual(code)

    os._exit = last


def _names_in(folder: Path) -> Names:
    return {
        entry.name: (entry.stat(follow_symlinks=False).st_ino, entry.is_dir())
        for entry in os.scandir(folder)
    }
