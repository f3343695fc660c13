"""Checks the files of a library before a model reads them: they may be anybody's.

A place beyond a table's rows would be read by a kernel that does not check its indices.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.adapters.routes import BASE


def check_library(path: Path, index: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Raises ValueError, with the file and what is wrong, for an index that its tensors don't fit.

    tensors: by name; of each map's table <map>:down and <map>:up, and the route's as route:<name>.
    """

    def need(fits: bool, what: str) -> None:
        if not fits:
            raise ValueError(f"{path}: {what}; make the library again")

    for name, tensor in tensors.items():
        if name != "route:places":
            need(tensor.is_floating_point(), f"{name} is of type {tensor.dtype}, and no float")
            need(bool(tensor.isfinite().all()), f"{name} has numbers that are not finite")
    rank, n_places = index.get("rank"), index.get("n_places")
    need(_is_count(rank) and _is_count(n_places), f"rank={rank!r} or n_places={n_places!r}")
    assert isinstance(rank, int)
    assert isinstance(n_places, int)
    maps = {name.removesuffix(":down") for name in tensors if name.endswith(":down")}
    ups = {name.removesuffix(":up") for name in tensors if name.endswith(":up")}
    need(maps == ups, f"a table of {sorted(maps ^ ups)[:1]} has one side")
    for name in maps:
        sizes = [tensors[f"{name}:{side}"].shape for side in ("down", "up")]
        whole = all(len(size) == 2 and size[0] == rank * n_places for size in sizes)
        need(whole, f"the table of {name} is not of {n_places} places of rank {rank}")
    places = _check_adapters(index["adapters"], maps, n_places, need)
    need(isinstance(index.get("base"), str | None), f"base={index.get('base')!r}")
    _check_route(index["route"], tensors, places | {BASE}, rank, need)


def _check_adapters(adapters: Any, maps: set[str], n_places: int, need: Any) -> set[int]:
    """Places that adapters have."""
    need(isinstance(adapters, Mapping), "adapters is no group of keys")
    places: set[int] = set()
    for name, one in adapters.items():
        one = one if isinstance(one, Mapping) else {}
        place: Any = one.get("place")
        own = one.get("maps")
        free = _is_count(place) and place < n_places and place not in places
        need(free, f"adapter {name!r} has place {place!r}")
        known = isinstance(own, list) and all(isinstance(n, str) and n in maps for n in own)
        need(known, f"adapter {name!r} has other maps")
        places.add(place)
    return places


def _check_route(
    route: Mapping[str, Any], tensors: Mapping[str, Tensor], places: set[int], rank: int, need: Any
) -> None:
    kind = route["kind"]
    if kind == "fixed":
        gates: Any = route.get("gates")
        need(isinstance(gates, Mapping), "a route by hand has no gates")
        for place, gate in gates.items():
            known = place.isdecimal() and len(place) < 10 and int(place) in places
            need(known and _is_number(gate), f"the route has gate {gate!r} at place {place!r}")
        return
    need(kind in ("arrow", "keys"), f"its route is of kind {kind!r}")
    need(_is_count(route.get("top_k")), f"its route has top_k={route.get('top_k')!r}")
    temperature: Any = route.get("temperature")
    need(_is_number(temperature) and temperature > 0, f"its route has temperature={temperature!r}")
    need(isinstance(route.get("memory"), str), f"its route has memory={route.get('memory')!r}")
    if kind == "arrow":
        return
    names = ("keys", "places", "component_keys", "mean", "precision")
    keys, of, components, *background = (
        tensors.get(f"route:{name}", torch.empty(0)) for name in names
    )
    d = keys.shape[-1] if keys.dim() == 2 and len(keys) else 0
    sizes = [one.shape for one in (keys, of, components)]
    fits = d > 0 and sizes[1:] == [keys.shape[:1], (rank, d)] and of.dtype == torch.int64
    need(fits, "its route's keys, places and components don't fit")
    need(places.issuperset(of.tolist()), "its route has keys of places that are no adapter's")
    if any(one.numel() for one in background):  # of keys that were made of texts
        fits = [one.shape for one in background] == [(d - 1,), (d - 1, d - 1)]
        need(fits, "its route's keys don't fit its background's mean and precision")


def _is_count(value: Any) -> bool:
    return type(value) is int and 1 <= value < 2**31


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and abs(value) < 1e30  # not NaN either
