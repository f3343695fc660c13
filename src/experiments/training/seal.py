"""Checkpoints as Lightning writes and reads them: sealed (system/seals.py), never unpickled."""

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from experiments.system.seals import save_sealed
from experiments.system.table_files import load_plain, placed


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
            loaded = load_plain(Path(path), map_location=map_location)
        except UnpicklingError as error:
            why = str(error).partition("\n")[0]
            raise ValueError(
                f"{path} is no checkpoint of ours: to read it would run code that is in it "
                f"({why}); delete it, and the run starts again"
            ) from None
        return placed(loaded, Path(path))
