"""A library in a folder: library.json, and its tables in one safetensors file that it names."""

import json
import re
from pathlib import Path
from typing import Any

from torch import Tensor

from experiments.adapters.library import LoRALibrary
from experiments.adapters.library_rules import check_library
from experiments.adapters.prototypes import Background, TextKeys
from experiments.adapters.routes import Arrow, ByRow, Fixed, ProductKeys, Route
from experiments.adapters.table import LoRATable
from experiments.config.constraints import shown
from experiments.init.reading import file_sha256, from_extra, named
from experiments.init.safetensors_files import load_tensors
from experiments.system.disk import (
    OTHER_FOLDER,
    abandoned,
    followed,
    make_folder,
    remove,
    rename,
    sync_file,
    write_text_atomically,
)
from experiments.system.json_files import read_json

INDEX = "library.json"
_FORMAT = 1
_TABLES = re.compile(r"tables-[0-9a-f]{16}\.safetensors")
_KEYS = ("keys", "places", "component_keys")


def save_library(library: LoRALibrary, folder: Path | str) -> Path:
    """Writes it, its route too, and returns the folder. What was there is replaced at the end, by
    one file's new name: a save that is interrupted leaves the library of before.

    Raises ValueError for a folder with other things in it.
    """
    folder = followed(Path(folder).expanduser())
    if folder.exists() and not (folder / INDEX).exists() and not _is_begun(folder):
        raise ValueError(f"{folder} has no {INDEX} and is not empty; name another folder")
    make_folder(folder)
    safetensors = from_extra("safetensors.torch", "a library in a folder")
    route, tensors = _route_settings(library.route)
    for path, table in library.tables.items():
        tensors[f"{path}:down"], tensors[f"{path}:up"] = table.w_down, table.w_up
    partial = folder / "tables.partial"
    remove(partial)  # a link would be written through
    safetensors.save_file(
        {name: t.detach().cpu().contiguous() for name, t in tensors.items()}, partial
    )
    digest = file_sha256(partial)
    name = f"tables-{digest[:16]}.safetensors"
    sync_file(partial)
    rename(partial, folder / name)
    index = {
        "format": _FORMAT,
        "rank": library.rank,
        "base": library.base,
        "n_places": library.n_places,
        "adapters": {
            n: {"place": library.places[n], "maps": list(library.list_paths(n))}
            for n in library.names
        },
        "route": route,
        "tables": name,
        "sha256": digest,
    }
    write_text_atomically(folder / INDEX, json.dumps(index, indent=1) + "\n", then=OTHER_FOLDER)
    for old in folder.glob("tables-*.safetensors"):
        if old.name != name:
            remove(old)
    return folder


def _is_begun(folder: Path) -> bool:
    """Whether it has only what a save leaves that was killed before it wrote the index, or is
    empty.
    """
    ours = {"tables.partial", *(path.name for path in abandoned(folder / INDEX))}
    names = (path.name for path in folder.iterdir()) if folder.is_dir() else ("a file",)
    return all(name in ours or _TABLES.fullmatch(name) for name in names)


def load_library(folder: Path | str, *, kernel: Any = "auto") -> LoRALibrary:
    """Library that save_library() wrote. Raises ValueError if it is not there or not whole."""
    folder = Path(folder).expanduser()
    index = _index(folder)
    path = _inside(folder, index["tables"])
    if file_sha256(path) != index["sha256"]:
        raise ValueError(f"{path} is damaged: it is not what {INDEX} says; make the library again")
    tensors = load_tensors(path, "make the library again")
    check_library(folder / INDEX, index, tensors)
    library = LoRALibrary(index["rank"], kernel=kernel)
    tables = {}
    for name in (n.removesuffix(":down") for n in tensors if n.endswith(":down")):
        down, up = tensors[f"{name}:down"], tensors[f"{name}:up"]
        table = LoRATable(down.shape[1], up.shape[1], rank=library.rank, n_places=0)
        table.w_down, table.w_up = down, up
        tables[name] = table
    library.restore(
        tables,
        places={name: a["place"] for name, a in index["adapters"].items()},
        maps={name: tuple(a["maps"]) for name, a in index["adapters"].items()},
        n_places=index["n_places"],
        base=index["base"],
    )
    with named(folder / INDEX):
        _restore_route(library, index["route"], tensors)
    return library


def is_library(folder: Path) -> bool:
    return (folder / INDEX).is_file()


def _index(folder: Path) -> dict[str, Any]:
    path = folder / INDEX
    if not path.is_file():
        raise ValueError(f"{folder} has no {INDEX}; name the folder of a library")
    try:
        index: dict[str, Any] = read_json(path)
        found = index["format"]
        _ = index["tables"], index["sha256"], index["adapters"], index["route"]["kind"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the index of a library ({error}); make it again") from None
    if found != _FORMAT:
        raise ValueError(f"{path} has format {found}, and this version reads {_FORMAT}")
    return index


def _inside(folder: Path, name: Any) -> Path:
    """File of the tables. Raises ValueError for a name that leads out of the folder."""
    path = folder / name if isinstance(name, str) and _TABLES.fullmatch(name) else None
    if path is None or path.resolve().parent != folder.resolve():
        raise ValueError(
            f"{folder / INDEX} names {shown(name)} as its tables, and they are a file "
            "tables-....safetensors of this folder; make the library again"
        )
    return path


def _route_settings(route: Route) -> tuple[dict[str, Any], dict[str, Tensor]]:
    if isinstance(route, Fixed):
        return {"kind": "fixed", "gates": {str(p): g for p, g in route.gates.items()}}, {}
    if isinstance(route, ByRow):
        raise ValueError(
            "a choice by rows is of one batch, and can't be kept; choose by use(), mix() or "
            "arrow() before saving"
        )
    assert isinstance(route, (Arrow, ProductKeys))
    says = {"top_k": route.top_k, "temperature": route.temperature, "memory": str(route.memory)}
    if isinstance(route, Arrow):
        return {"kind": "arrow", **says}, {}
    tensors = {f"route:{name}": getattr(route, name) for name in _KEYS}
    if isinstance(route, TextKeys):
        tensors["route:mean"] = route.background.mean
        tensors["route:precision"] = route.background.precision
    return {"kind": "keys", **says}, tensors


def _restore_route(library: LoRALibrary, says: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    if says["kind"] == "fixed":
        gates = {int(place): gate for place, gate in says["gates"].items()}
        library.set_route(Fixed(gates, library.rank))
        return
    memory = float(says["memory"])
    if says["kind"] == "arrow":
        library.arrow(top_k=says["top_k"], temperature=says["temperature"], memory=memory)
        return
    keys = tensors["route:keys"]
    made = TextKeys if tensors.keys() >= {"route:mean", "route:precision"} else ProductKeys
    route = made(
        keys.shape[1] - 1,
        rank=library.rank,
        memory=memory,
        top_k=says["top_k"],
        temperature=says["temperature"],
    )
    for name in _KEYS:
        setattr(route, name, tensors[f"route:{name}"])
    if isinstance(route, TextKeys):
        route.background = Background(
            mean=tensors["route:mean"], precision=tensors["route:precision"]
        )
    library.set_route(route)
