"""Checkpoint files that are written with their own sha256 (system/seals.py reads it)."""

import hashlib
import os
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from experiments.system.disk import explained, sync
from experiments.system.seals import MARK, SEAL

_END, _END_SIZE = b"PK\5\6", 22  # an archive's last record, whose last 2 bytes count its comment's


class SealedCheckpoints(TorchCheckpointIO):
    """Lightning's way of saving, but straight to the file, sealed, and seen to the disk; and of
    reading, but never unpickled: Lightning 2.5 unpickles, and from 2.6 what torch does by default.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None
    ) -> None:
        save_sealed(checkpoint, Path(path))

    def load_checkpoint(
        self, path: str | Path, map_location: Any = "cpu", weights_only: bool | None = True
    ) -> dict[str, Any]:
        """Raises ValueError for what is more than tensors and plain values."""
        try:
            loaded: dict[str, Any] = torch.load(path, map_location=map_location, weights_only=True)
        except UnpicklingError as error:
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"{path} is no checkpoint of ours: to read it would run code that is in it "
                f"({why}); delete it, and the run starts again"
            ) from None
        return loaded


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
                    file.write(SEAL.to_bytes(2, "little"))
                    file.write(MARK + hashed.digest.hexdigest().encode())
                file.flush()
                sync(file.fileno())
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk has room for the run's record then
            raise


class _Hashed:
    """A file for torch.save: hashes on the way, and keeps an error for after it, for torch's
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
