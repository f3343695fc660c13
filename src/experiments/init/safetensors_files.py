"""Tensors in safetensors files, one or several with an index. They are read without unpickling.

Needs the package `safetensors` of the extra `hf`, and no transformers.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.init.reading import from_extra, stamp
from experiments.system import interruption
from experiments.system.json_files import read_json
from experiments.system.regular_files import regular

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_FLOATS = ("F64", "F32", "F16", "BF16")  # safetensors' names of the types that are read


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    file: Path
    kind: str  # safetensors' name of its type
    size: tuple[int, ...]


def stored_tensors(folder: Path) -> Mapping[str, Stored]:
    """Every tensor of a model's files by name, from their headers alone.

    Raises ValueError for files that are missing, cut short, or disagree with their index.
    """
    return _stored(folder, _stamps(_files(folder)))


def read_tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors, of the types that they were saved in. Raises ValueError as stored_tensors, and
    for numbers that are not plain floats.
    """
    found = stored_tensors(folder)
    for name, tensor in found.items():
        if tensor.kind not in _FLOATS:
            raise ValueError(
                f"{tensor.file}: {name} is of type {tensor.kind}, and not one of "
                f"{', '.join(_FLOATS)}; give weights that are not quantised"
            )
    return dict(_each(found))


def load_tensors(path: Path, remedy: str = "get it again") -> dict[str, Tensor]:
    """All tensors of one file. Raises ValueError, in one line, for a file that can't be read."""
    safetensors = from_extra("safetensors.torch", f"{path}")
    with _readable(path, remedy):
        return dict(safetensors.load_file(regular(path)))


def compute_digest(folder: Path) -> str:
    """Sha256 of all names, types, sizes and bytes; how they are shared out over files does not
    matter.
    """
    return _digest(folder, _stamps(_files(folder)))


@functools.lru_cache(maxsize=8)
def _digest(folder: Path, stamps: tuple[Any, ...]) -> str:
    digest = hashlib.sha256()
    found = _stored(folder, stamps)
    for name, tensor in _each(found):
        digest.update(json.dumps([name, found[name].kind, found[name].size]).encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _each(found: Mapping[str, Stored]) -> Iterator[tuple[str, Tensor]]:
    """Names and tensors, in order of name; one at a time is in memory."""
    safetensors = from_extra("safetensors", "a model in safetensors files")
    opened: dict[Path, Any] = {}
    for name in sorted(found):
        path = found[name].file
        with _readable(path):
            if path not in opened:
                opened[path] = safetensors.safe_open(regular(path), framework="pt")
            tensor = opened[path].get_tensor(name)
        yield name, tensor


@functools.lru_cache(maxsize=8)
def _stored(folder: Path, stamps: tuple[Any, ...]) -> Mapping[str, Stored]:
    safetensors = from_extra("safetensors", "a model in safetensors files")
    found: dict[str, Stored] = {}
    for path in _files(folder):
        with _readable(path), safetensors.safe_open(regular(path), framework="pt") as file:
            for name in file.keys():  # noqa: SIM118  # it is no dict
                part = file.get_slice(name)
                if name in found:
                    raise ValueError(f"{name} is in {found[name].file.name} too")
                found[name] = Stored(path, part.get_dtype(), tuple(part.get_shape()))
    if (folder / INDEX).exists():
        _check_index(folder, found)
    return found


def _check_index(folder: Path, found: Mapping[str, Stored]) -> None:
    for name, file in _index(folder).items():
        if name not in found or found[name].file.name != file:
            raise ValueError(
                f"{folder / INDEX} says that {file} holds {name}, and it does not; get the model's "
                "files again"
            )


def _files(folder: Path) -> list[Path]:
    """Files of the weights. Raises ValueError if one is missing."""
    if (folder / INDEX).exists():
        names = sorted(set(_index(folder).values()))
    elif (folder / WEIGHTS).exists():
        names = [WEIGHTS]
    else:
        raise ValueError(f"{folder} has no {WEIGHTS} and no {INDEX}")
    for name in names:
        if Path(name).name != name or not (folder / name).is_file():
            raise ValueError(f"{folder} has no file {name}, which {INDEX} names; get it again")
    return [folder / name for name in names]


def _index(folder: Path) -> dict[str, str]:
    path = folder / INDEX
    try:
        names = read_json(path)["weight_map"]
        if not all(isinstance(file, str) for file in names.values()):
            raise ValueError("a name of a file is none")
        return dict(names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is no index of safetensors files: {error}") from None


def _stamps(files: list[Path]) -> tuple[Any, ...]:
    return tuple(stamp(path) for path in files)


@contextmanager
def _readable(path: Path, remedy: str = "get it again") -> Iterator[None]:
    """Turns what reading a damaged file raises into one line. An interruption stays one."""
    safetensors = from_extra("safetensors", f"{path}")
    try:
        with interruption.heard():
            yield
    except (safetensors.SafetensorError, OSError, ValueError) as error:
        raise ValueError(f"{path} can't be read, or is cut short ({error}); {remedy}") from None
