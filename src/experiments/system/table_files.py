"""Tables of a checkpoint in files of their own, one of each process that had columns of them.

Such a checkpoint says under `tables` which files are its own, by a folder beside it and by their
seals (seals.py): so they are its own from the moment when it has its name. A file has of each table
the columns from `first` on, and the optimizer's state of them. Any number of processes can read
them: each takes its columns from whichever files have them.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.system.disk import refuse_links, remove_empty, remove_tree
from experiments.system.regular_files import regular

KEY = FOLDER = "tables"
Share = tuple[int, int]  # of the columns: that of process r of R, those from r d/R to (r + 1) d/R
_NAME = re.compile(r"\d+-[0-9a-f]+")


def folder_name(step: int, mark: int) -> str:
    """Folder of a checkpoint's files, within FOLDER. mark: that no other of the step has."""
    return f"{step}-{mark:x}"


def file_name(rank: int, size: int) -> str:
    """File of one of `size` processes."""
    return f"{rank}-of-{size}.ckpt"


def read_manifest(path: Path) -> dict[str, Any] | None:
    """What a checkpoint says of its tables' files; None: it has its tables, or can't be read."""
    with suppress(Exception):  # whoever loads it says why
        found = load_plain(path, mmap=True).get(KEY)
        if isinstance(found, dict):
            return found
    return None


def list_files(manifest: Mapping[str, Any], beside: Path) -> list[Path]:
    """Files, by rank. beside: the checkpoint's folder. Raises ValueError for a manifest that
    names another place.
    """
    folder, seals = manifest["folder"], manifest["seals"]
    if not isinstance(folder, str) or _NAME.fullmatch(folder) is None:
        raise ValueError(f"its tables are said to be in {folder!r}, which is no folder of ours")
    size = len(seals)
    return [beside / FOLDER / folder / file_name(rank, size) for rank in range(size)]


def read_by(share: Share, n_files: int) -> range:
    """Which files, each with as many columns, have those of the share."""
    rank, size = share
    return range(rank * n_files // size, -(-(rank + 1) * n_files // size))


def load_plain(path: Path, *, mmap: bool = False, map_location: Any = "cpu") -> dict[str, Any]:
    """A file of torch's: tensors and plain values, never unpickled. mmap: they stay in the file
    until they are used. Raises OSError for what is no regular file, and torch's errors for damage.
    """
    return torch.load(regular(path), map_location=map_location, weights_only=True, mmap=mmap)


def placed(checkpoint: dict[str, Any], path: Path) -> dict[str, Any]:
    """A checkpoint that was read there; join() then knows where its tables' files are."""
    if isinstance(checkpoint.get(KEY), dict):
        checkpoint[KEY]["beside"] = str(path.parent)
    return checkpoint


def load_whole(path: Path, *, mmap: bool = False) -> dict[str, Any]:
    """A checkpoint with its tables in it, wherever they are; never unpickled. mmap: what it has
    itself stays in the file until it is used.
    """
    return join(placed(load_plain(path, mmap=mmap), path))


def join(checkpoint: dict[str, Any], share: Share = (0, 1)) -> dict[str, Any]:
    """Puts the tables of a checkpoint that was `placed` into it, and what the optimizer keeps of
    them: a share of their columns, from the files that have them. One that has them stays as it is.

    Raises ValueError unless these files have each of the columns once.
    """
    manifest = checkpoint.pop(KEY, None)
    if manifest is None:
        return checkpoint
    found = list_files(manifest, Path(manifest["beside"]))
    files = [load_plain(found[i], mmap=True)[KEY] for i in read_by(share, len(found))]
    states = checkpoint["optimizer_states"][0]["state"]
    for name, place in manifest["places"].items():
        parts = [file[name] for file in files]

        def columns(*keys: str, parts: Sequence[Any] = parts, name: str = name) -> Tensor:
            pieces = []
            for part in parts:
                piece = part
                for key in keys:
                    piece = piece[key]
                pieces.append((part["first"], piece))
            return _columns(name, pieces, part["of"], share)

        checkpoint["state_dict"][name] = columns("weights")
        state = parts[0]["state"]
        if state is not None:
            states[place] = {
                key: columns("state", key) if value.dim() else value.clone()
                for key, value in state.items()
            }
    return checkpoint


def _columns(name: str, pieces: Sequence[tuple[int, Tensor]], width: int, share: Share) -> Tensor:
    """Share of a table of this width, of pieces that begin at these columns."""
    rank, size = share
    lo, hi = rank * width // size, (rank + 1) * width // size
    ordered = sorted(pieces, key=lambda pair: pair[0])
    firsts = [first for first, _ in ordered]
    ends = [first + piece.shape[1] for first, piece in ordered]
    if firsts[0] > lo or ends[-1] < hi or ends[:-1] != firsts[1:]:
        raise ValueError(f"the files of {name} do not have each of its {width} columns once")
    return torch.cat([p[:, max(lo - first, 0) : max(hi - first, 0)] for first, p in ordered], dim=1)


def drop_unnamed(folder: Path, checkpoints: Iterable[str]) -> None:
    """Removes files of tables that none of these checkpoints of a folder names. Only for the
    folder's only writer.
    """
    place = folder / FOLDER
    if not place.is_dir() and not place.is_symlink():
        return
    manifests = (read_manifest(folder / name) for name in checkpoints)
    named = {manifest["folder"] for manifest in manifests if manifest is not None}
    refuse_links(place)
    for found in place.iterdir():
        if found.name not in named:
            remove_tree(found)
    remove_empty(place)
