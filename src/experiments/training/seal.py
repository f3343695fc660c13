"""Checkpoint files with their own sha256, and the damage of a file without a valid one.

A checkpoint of torch is a zip archive. The hash is of all its bytes as torch wrote them. It is
in the archive's comment, so that a file and its hash are renamed together, and every reader of such
archives still reads it.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from experiments.system.disk import explained, sync

_MARK = b"sha256:"
_SEAL = len(_MARK) + 64  # bytes of the comment: the mark and 64 hex digits
_END, _END_SIZE = b"PK\5\6", 22  # an archive's last record, whose last 2 bytes count its comment's
_NEEDED = ("state_dict", "optimizer_states", "global_step", "loops")
_CHUNK = 2**20  # bytes


class SealedCheckpoints(TorchCheckpointIO):
    """Lightning's way of saving, but straight to the file, sealed, and seen to the disk."""

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        save_sealed(checkpoint, Path(path))


def save_sealed(checkpoint: dict[str, Any], path: Path) -> None:
    """torch.save with the hash. If that fails: removes the file and raises RuntimeError."""
    with explained(path):
        try:
            with path.open("wb") as file:
                hashed = _Hashed(file)
                torch.save(checkpoint, hashed)  # type: ignore[arg-type]  # of IO it only writes
                if hashed.error is not None:
                    raise hashed.error
                if hashed.tail.startswith(_END) and hashed.tail.endswith(b"\0\0"):
                    file.seek(-2, os.SEEK_END)
                    file.write(_SEAL.to_bytes(2, "little"))
                    file.write(_MARK + hashed.digest.hexdigest().encode())
                file.flush()
                sync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk has room for the run's record then
            raise


class _Hashed:
    """What torch.save writes to: hashes on the way, and keeps an error for after it, for torch's
    own code can't be left by one.
    """

    def __init__(self, file: BinaryIO) -> None:
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


def damage_of(path: Path) -> str | None:
    """The damage of a checkpoint, in words; None if it is whole.

    Of one without a hash, as older ones are, the archive's own checksums must hold, torch must load
    it, and it must have what a resume needs. Raises RuntimeError if it may not be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _SEAL))
            seal = file.read(_SEAL)
            if seal.startswith(_MARK):
                right = _hash(file, size - _SEAL) == seal.removeprefix(_MARK)
                return None if right else "its checksum is not that of its content"
        return _damage_of_unsealed(path) if size else "it is empty"
    except PermissionError as error:
        raise RuntimeError(f"{path} can't be read: {error.strerror}; make it readable") from error
    except Exception as error:  # zipfile and torch raise more kinds than they document
        text = getattr(error, "strerror", None) or str(error).partition("\n")[0]
        return f"{type(error).__name__}: {text[:200]}"


def _hash(file: BinaryIO, size: int) -> bytes:
    """The sha256 of an archive of `size` bytes, before it had a comment."""
    file.seek(0)
    digest, left = hashlib.sha256(), size - 2
    while left > 0:
        data = file.read(min(_CHUNK, left))
        if not data:
            break
        digest.update(data)
        left -= len(data)
    counted = file.read(2) == _SEAL.to_bytes(2, "little")
    digest.update(b"\0\0" if counted else b"")
    return digest.hexdigest().encode()


def _damage_of_unsealed(path: Path) -> str | None:
    with zipfile.ZipFile(path) as archive:
        bad = archive.testzip()
    if bad is not None:
        return f"its part {bad} has another checksum"
    loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    missing = [name for name in _NEEDED if not isinstance(loaded, dict) or name not in loaded]
    return f"it has no {', '.join(missing)}" if missing else None
