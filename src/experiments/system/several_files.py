"""Results that several files make up: whole, or as they were before. Standard library only.

One of the files lists the others by their SHA-256, beside values of its own, as the question that
they answer (the run, its weights, the settings), and has its own at its end. New files are
first in a folder beside it. They get their places after the list has its, so that a kill or a full
disk leaves the results of before, or the new ones: files that had no time to move are named by the
list already, and the next command moves them (settle). What is not as it was written is named, and
no reader takes it for results.
"""

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.system.disk import (
    OTHER_FOLDER,
    abandoned,
    explained,
    file_sha256,
    make_folder,
    remove_tree,
    rename,
    sync_file,
    temporary_name,
    write_text_atomically,
)
from experiments.system.json_files import read_json

_FILES, _SEAL = "files", "sha256"  # keys of the list
_WAITING = "waiting"  # marks a folder of new files


class NotWholeError(ValueError):
    """Files are not those that were written. wrong: of each name the reason, in words."""

    def __init__(self, folder: Path, wrong: Mapping[str, str], remedy: str) -> None:
        each = "; ".join(f"{folder / name} {why}" for name, why in wrong.items())
        super().__init__(f"{each}; {remedy}")
        self.wrong = dict(wrong)


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A list as it was read: its values, and its files' SHA-256 by name."""

    path: Path
    values: Mapping[str, Any]
    files: Mapping[str, str]

    def wrong(self) -> dict[str, str]:
        """By name, the reason of each file that is not as it was written, in words."""
        found = {name: self._why_not(name) for name in self.files}
        return {name: why for name, why in found.items() if why is not None}

    def _why_not(self, name: str) -> str | None:
        digest = _sha256(self.path.with_name(name))
        if digest is None:
            return "is missing"
        if digest != self.files[name]:
            return (
                f"is not the file that was written (its SHA-256 is {digest[:8]}, and "
                f"{self.path.name} has {self.files[name][:8]})"
            )
        return None


def write_together(path: Path, values: Mapping[str, Any], files: Mapping[str, str]) -> None:
    """Writes texts beside `path`, by their names, and to `path` the list of them with its values.

    The folder is made. What is there already as it is to be stays. Raises RuntimeError as
    explained(): then the results of before are there.
    """
    listed = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()}
    content = json.loads(json.dumps({**values, _FILES: listed}))
    sealed = {**content, _SEAL: _seal(content)}
    new = temporary_name(path, _WAITING)
    with explained(path, OTHER_FOLDER):
        make_folder(path.parent)
        settle(path)
        try:
            make_folder(new)
            for name, text in files.items():
                if _sha256(path.with_name(name)) != listed[name]:
                    write_text_atomically(new / name, text, then=OTHER_FOLDER)
            write_text_atomically(path, json.dumps(sealed, indent=1) + "\n", then=OTHER_FOLDER)
        except BaseException:
            with suppress(OSError):
                _move(path, new)
            raise
        _move(path, new)


def read_list(path: Path) -> Listed:
    """List that was written there. Raises ValueError, in words, for one that is not."""
    content = read_json(path)
    seal, files = content.pop(_SEAL, None), content.get(_FILES)
    if not isinstance(files, dict):
        raise ValueError("it lists no files, as those of earlier versions")
    if seal != _seal(content) or not all(_is_plain(*one) for one in files.items()):
        raise ValueError("its SHA-256 is not that of its content")
    del content[_FILES]
    return Listed(path=path, values=content, files=files)


def settle(path: Path) -> None:
    """Moves the files of a write that was killed to their places, where it was far enough, and
    drops them where it was not. Raises RuntimeError as explained().
    """
    with explained(path, OTHER_FOLDER):
        for folder in abandoned(path, _WAITING):
            _move(path, folder)


def _move(path: Path, waiting: Path) -> None:
    """Move new files that the list names to their places; remove the others."""
    if waiting.is_symlink() or not waiting.is_dir():
        return
    files: Mapping[str, str] = {}
    with suppress(FileNotFoundError, ValueError):  # what can't be read is asked for again
        files = read_list(path).files
    for name, digest in files.items():
        if (waiting / name).is_file() and file_sha256(waiting / name) == digest:
            rename(waiting / name, path.with_name(name))
    sync_file(path.parent)
    remove_tree(waiting)


def _is_plain(name: str, digest: Any) -> bool:
    return name == Path(name).name and name not in ("", "..") and isinstance(digest, str)


def _seal(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str | None:
    """None of a file that can't be read."""
    try:
        return file_sha256(path)
    except OSError:
        return None
