"""Checkpoint files that are written with their own sha256, and the damage of one.

A checkpoint of torch is a zip archive. The hash is of all its bytes as torch wrote them. It is
in the archive's comment, so that a file and its hash are renamed together, and every reader of such
archives still reads it.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import IO, Any, BinaryIO

import torch

from experiments.system.disk import explained, opened, remove, sync
from experiments.system.regular_files import FileRefusedError, open_regular
from experiments.system.table_files import Share, list_files, load_plain, read_by, read_manifest

MARK = b"sha256:"
SEAL = len(MARK) + 64  # bytes of the comment: the mark and 64 hex digits
_NEEDED = ("state_dict", "optimizer_states", "global_step", "loops")
_CHUNK = 2**20  # bytes
_END, _END_SIZE = b"PK\5\6", 22  # an archive's last record, whose last 2 bytes count its comment's


def find_damage(path: Path, share: Share = (0, 1)) -> str | None:
    """Damage of a checkpoint, in words; None if it is whole.

    Of one without a hash, as older ones are, the archive's own checksums must hold, torch must load
    it, and it must have what a resume needs. Of one whose tables are in files of their own, those
    that this share of their columns is in must be whole, and be the ones that it was written with;
    others are not looked at. Raises RuntimeError if it may not be read.
    """
    why = _damage_of_file(path)
    manifest = read_manifest(path) if why is None else None
    if manifest is None:
        return why
    try:
        seals, files = manifest["seals"], list_files(manifest, path.parent)
        needed = {files[i]: seals[i] for i in read_by(share, len(files))}
    except (KeyError, TypeError, ValueError) as error:
        return f"what it says of its tables is not ours: {error}"
    for file, seal in needed.items():
        name = file.relative_to(path.parent)
        if not file.exists():
            return f"its {name} is missing"
        why = _damage_of_file(file)
        if why is not None:
            return f"its {name}: {why}"
        if seal_path(file) != seal:
            return f"its {name} is of another checkpoint"
    return None


def seal_path(path: Path) -> str:
    """Hex digits (64) of a file's seal; of one without, what stands there."""
    with open_regular(path) as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - SEAL))
        return file.read().removeprefix(MARK).decode("ascii", "replace")


def _damage_of_file(path: Path) -> str | None:
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - SEAL))
            seal = file.read(SEAL)
            if seal.startswith(MARK):
                right = _hash(file, size - SEAL) == seal.removeprefix(MARK)
                return None if right else "its checksum is not that of its content"
            if not size:
                return "it is empty"
            with zipfile.ZipFile(file) as archive:
                bad = archive.testzip()
        if bad is not None:
            return f"its part {bad} has another checksum"
        loaded = load_plain(path, mmap=True)
        missing = [name for name in _NEEDED if not isinstance(loaded, dict) or name not in loaded]
        return f"it has no {', '.join(missing)}" if missing else None
    except PermissionError as error:
        raise RuntimeError(f"{path} can't be read: {error.strerror}; make it readable") from error
    except FileRefusedError as error:
        return error.strerror
    except Exception as error:  # zipfile and torch raise more kinds than they document
        text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return f"{type(error).__name__}: {text[:200]}"


def _hash(file: BinaryIO, size: int) -> bytes:
    """Sha256 of an archive of `size` bytes, before it had a comment."""
    file.seek(0)
    digest, left = hashlib.sha256(), size - 2
    while left > 0:
        data = file.read(min(_CHUNK, left))
        if not data:
            break
        digest.update(data)
        left -= len(data)
    counted = file.read(2) == SEAL.to_bytes(2, "little")
    digest.update(b"\0\0" if counted else b"")
    return digest.hexdigest().encode()


def save_sealed(checkpoint: dict[str, Any], path: Path) -> None:
    """torch.save with the hash. If that fails: removes the file and raises RuntimeError."""
    with explained(path):
        try:
            with opened(path) as file:
                hashed = _Hashed(file)
                torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # of IO it only writes
                if hashed.error is not None:
                    raise hashed.error
                if hashed.tail.startswith(_END) and hashed.tail.endswith(b"\0\0"):
                    file.seek(-2, os.SEEK_END)
                    file.write(SEAL.to_bytes(2, "little"))
                    file.write(MARK + hashed.digest.hexdigest().encode())
                file.flush()
                sync(file.fileno())
        except BaseException:
            remove(path)  # a full disk has room for the run's record then
            raise


class _Hashed:
    """A file for torch.save: hashes on the way, and keeps an error for after it, for torch's
    own code can't be left by one.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self.file, self.digest, self.tail = file, hashlib.sha256(), b""
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        """Writes and hashes the bytes; nothing more after the first error."""
        view = memoryview(data)
        if self.error is None:
            try:
                self.file.write(view)
            except OSError as error:
                self.error = error
            self.digest.update(view)
            self.tail = (self.tail + bytes(view[-_END_SIZE:]))[-_END_SIZE:]
        return view.nbytes

    def flush(self) -> None:
        """torch asks for it at the end; the file is flushed after its seal."""
