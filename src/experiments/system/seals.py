"""The damage of a checkpoint file, which has its own sha256 (training/seal.py writes it).

A checkpoint of torch is a zip archive. The hash is of all its bytes as torch wrote them. It is
in the archive's comment, so that a file and its hash are renamed together, and every reader of such
archives still reads it.
"""

import hashlib
import os
import zipfile
from pathlib import Path
from typing import BinaryIO

import torch

MARK = b"sha256:"
SEAL = len(MARK) + 64  # bytes of the comment: the mark and 64 hex digits
_NEEDED = ("state_dict", "optimizer_states", "global_step", "loops")
_CHUNK = 2**20  # bytes


def damage_of(path: Path) -> str | None:
    """The damage of a checkpoint, in words; None if it is whole.

    Of one without a hash, as older ones are, the archive's own checksums must hold, torch must load
    it, and it must have what a resume needs. Raises RuntimeError if it may not be read.
    """
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - SEAL))
            seal = file.read(SEAL)
            if seal.startswith(MARK):
                right = _hash(file, size - SEAL) == seal.removeprefix(MARK)
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
    counted = file.read(2) == SEAL.to_bytes(2, "little")
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
