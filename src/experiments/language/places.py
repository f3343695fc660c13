"""Paths of a sweep's configs, from where its folder is now. Standard library only.

Results are where the manifest is. After a folder was moved, renamed or copied, nothing is read from
the old place or written to it.
"""

import functools
import glob
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from experiments.sweep.folders import now_called

_TEXTS = ("path", "validation_path")  # of a corpus


def relocatable(raw: Mapping[str, Any], sweep_dir: Path) -> dict[str, Any]:
    """Config as a manifest keeps it: what was given relative to the working directory (the
    cache, a trunk, texts that are there) is relative to the sweep's folder. Absolute paths stay.
    """

    def relative(path: str) -> str:  # of real paths: results/ may be a link to another disk
        return os.path.relpath(os.path.realpath(path), os.path.realpath(sweep_dir))

    def text(path: str) -> str:
        return relative(path) if _is_relative(path) and _is_there(Path(), path) else path

    paths = dict(raw["paths"])
    for name, path in paths.items():
        if _is_relative(path):
            paths[name] = relative(path)
    return {**_with_trunk(_with_texts(raw, text), relative), "paths": paths}


def located(raw: Mapping[str, Any], sweep_dir: Path) -> dict[str, Any]:
    """Config of a manifest with absolute paths, of results in sweep_dir.

    The sweep's name is that of its folder, with the group before it if that folder is there too.
    A cache that is not there any more becomes today's default, with a note on stderr. Texts given
    relative to the sweep's folder are taken from there; others are left as they are.
    """
    name, results = now_called(raw, sweep_dir)
    folder = results / name
    real = Path(os.path.realpath(folder))

    def text(path: str) -> str:
        if not _is_relative(path) or (not _is_there(real, path) and not path.startswith("..")):
            return path  # a dataset's name, or of the working directory, as manifests once had it
        return os.path.normpath(real / path)

    old = raw.get("paths", {}).get("cache")
    cache = Path(os.path.normpath(real / Path(old).expanduser())) if old else None
    if cache is None or not cache.exists():
        default = Path(os.environ.get("EXPERIMENTS_CACHE", ".cache")).expanduser().absolute()
        if cache is not None and default != cache:
            _say_once(f"note: the cache {cache} is not there; {default} is used")
        cache = default
    paths = {"results": str(results), "cache": str(cache)}
    with_texts = _with_trunk(_with_texts(raw, text), lambda path: os.path.normpath(real / path))
    return {**with_texts, "sweep": name, "paths": paths}


def _with_trunk(raw: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Config with the path of a branch's trunk changed, if it is a relative one."""
    optim = raw.get("optim")
    place = optim.get("branch_from") if isinstance(optim, Mapping) else None
    if not isinstance(place, str) or place == "trunk" or not _is_relative(place):
        return dict(raw)
    return {**raw, "optim": {**raw["optim"], "branch_from": change(place)}}


def _with_texts(raw: Mapping[str, Any], change: Callable[[str], str]) -> dict[str, Any]:
    """Config with the paths of texts changed: of the data and of the sets that are scored."""

    def corpus(node: Any) -> Any:
        if not isinstance(node, Mapping):
            return node
        paths = {k: change(node[k]) for k in _TEXTS if isinstance(node.get(k), str)}
        inner = {"corpus": corpus(node["corpus"])} if "corpus" in node else {}
        return {**node, **paths, **inner}

    sets = raw.get("eval")
    if isinstance(sets, Mapping):
        sets = {name: corpus(node) for name, node in sets.items()}
    return {k: corpus(v) if k == "data" else sets if k == "eval" else v for k, v in raw.items()}


def _is_relative(path: str) -> bool:
    return bool(path) and not Path(path).expanduser().is_absolute()


def _is_there(folder: Path, path: str) -> bool:
    """Whether it names a file or folder, or as a glob matches one."""
    if (folder / path).exists():
        return True
    # Path.glob takes no absolute pattern, and before Python 3.13 enters no linked folder
    found = glob.iglob(path, root_dir=folder, recursive=True)  # noqa: PTH207
    return glob.has_magic(path) and next(found, None) is not None


@functools.cache
def _say_once(note: str) -> None:
    print(note, file=sys.stderr)
