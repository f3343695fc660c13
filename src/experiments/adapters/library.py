"""LoRA adapters that are found at run time: one table a linear map, and a route over them.

The paper's outlook (He 2024, arXiv:2407.04153, §5): PEER's retrieval could pick adapters at run
time. Here each of a model's linear maps gets the table of what all adapters add to it (table.py),
and a route says which rows a token reads (routes.py). The model itself stays as it is.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from experiments.adapters.attachment import Attached
from experiments.adapters.lora_files import LoRA, LowRank, read_lora
from experiments.adapters.routes import (
    BASE,
    Arrow,
    ByRow,
    Fixed,
    ProductKeys,
    Reading,
    Route,
    check_top_k,
)
from experiments.adapters.table import LoRATable
from experiments.kernels.ops import Execution

ROW_BASE = "__base__"  # peft's word for a sequence without an adapter


def lora_library(
    adapters: Iterable[str | Path | LoRA], *, rank: int | None = None, kernel: Any = "auto"
) -> "LoRALibrary":
    """A library of the adapters in some folders (lora_files.read_lora), named as their folders.

    rank: the most that a later adapter may have; None: the most of these. Raises ValueError for no
    adapter, for one that can't be read, for equal names, for adapters of other weights or shapes.
    """
    found = [a if isinstance(a, LoRA) else read_lora(a) for a in adapters]
    if not found:
        raise ValueError("a library needs at least one adapter; give the folders of some")
    if rank is None:
        rank = max(lora.rank for lora in found)
    most = max(min(low_rank.shape) for lora in found for low_rank in lora.maps.values())
    if rank > most:
        raise ValueError(f"rank={rank} is above {most}, and no map of these has a higher; lower it")
    library = LoRALibrary(rank, kernel=kernel)
    for lora in found:
        library.add(lora)
    return library


def find_library(model: nn.Module) -> "LoRALibrary | None":
    """Library attached to a model; a copy of a model has a copy of the library."""
    for hook in model._forward_pre_hooks.values():
        holder = getattr(hook, "__self__", None)
        if isinstance(holder, Attached):
            return holder.library
    return None


class LoRALibrary:
    """Adapters by name, each at a place of all tables; place 0 is the base without any.

    attach() puts it beside the linear maps of a model, in place. Until a route is set the output is
    the base's. add() and remove() may be called between any two forward passes: no other adapter's
    rows, prototypes or keys are touched.
    """

    def __init__(self, rank: int, *, kernel: Any = "auto") -> None:
        if rank < 1:
            raise ValueError(f"rank={rank} must be at least 1")
        self.rank, self.execution = rank, Execution(kernel=kernel)
        self.tables: dict[str, LoRATable] = {}
        self.base: str | None = None
        self.places: dict[str, int] = {}
        self._adapters: dict[int, tuple[str, ...]] = {}  # the paths of each
        self.n_places = 1  # room in all tables, the base's place and empty ones included
        self._route: Route = Fixed({}, rank)
        self._attached: Attached[LoRALibrary] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Adapters', in the order of their places."""
        return tuple(sorted(self.places, key=self.places.__getitem__))

    @property
    def route(self) -> Route:
        return self._route

    def list_paths(self, name: str) -> tuple[str, ...]:
        """Paths of the maps that an adapter adds to. Raises ValueError for an unknown name."""
        return self._adapters[self.place(name)]

    # --- what is in it

    def add(self, adapter: str | Path | LoRA, name: str | None = None) -> str:
        """Puts an adapter in, and returns its name. The next token may use it: at once by a route
        by hand or by Arrow, and by product keys as soon as it has a key (prototypes.py).

        Raises ValueError, and changes nothing, for what can't be read, a name that is there, a
        rank above the library's, another base or other shapes.
        """
        lora = adapter if isinstance(adapter, LoRA) else read_lora(adapter)
        name = lora.name if name is None else name
        self._check(lora, name)
        free = set(range(1, self.n_places)) - set(self.places.values())
        place = min(free) if free else self.n_places
        if place == self.n_places:  # room doubles, so that many additions cost what they add
            self.n_places = max(2, 2 * self.n_places)
        for path, low_rank in lora.maps.items():
            if path not in self.tables:
                self._new_table(path, low_rank)
        for path, table in self.tables.items():
            if len(table.w_down) < self.n_places * self.rank:
                table.extend(self.n_places)
            table.put(place, lora.maps.get(path))
        self.places[name] = place
        self._adapters[place] = tuple(lora.maps)
        self.base = self.base or lora.base
        self._route.put(place, lora, self.n_places)
        return name

    def remove(self, name: str) -> None:
        """Takes an adapter out; its place is free for another. Raises ValueError for an unknown."""
        place = self.place(name)
        for path in self._adapters.pop(place):
            self.tables[path].put(place, None)
        del self.places[name]
        self._route.put(place, None, self.n_places)

    def adapter(self, name: str) -> LoRA:
        """One of them, of the library's rank."""
        place = self.place(name)
        maps = {path: self.tables[path].at(place) for path in self._adapters[place]}
        return LoRA(name=name, base=self.base, maps=maps)

    def restore(
        self,
        tables: Mapping[str, LoRATable],
        *,
        places: Mapping[str, int],
        maps: Mapping[str, tuple[str, ...]],
        n_places: int,
        base: str | None,
    ) -> None:
        """Fills an empty library with what storage.py has read.

        Raises ValueError for one that has adapters, or is attached.
        """
        if self.places or self._attached is not None:
            raise ValueError("a library is restored into an empty one that is attached to no model")
        self.tables, self.places, self.base = dict(tables), dict(places), base
        for table in self.tables.values():
            table.execution = self.execution
        self._adapters = {place: maps[name] for name, place in places.items()}
        self.n_places = n_places

    def place(self, name: str) -> int:
        """Its number in all tables. Raises ValueError for an unknown name."""
        if name not in self.places:
            raise ValueError(f"no adapter {name!r} is in the library, which has {self._shown()}")
        return self.places[name]

    def _shown(self) -> str:
        names = self.names
        return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")

    def _check(self, lora: LoRA, name: str) -> None:
        if not name or name == "base":
            raise ValueError(f"an adapter can't be named {name!r}, which means none; give name=")
        if name in self.places:
            raise ValueError(f"an adapter {name!r} is in the library; remove it, or give name=")
        if lora.rank > self.rank:
            raise ValueError(
                f"adapter {name!r} has rank {lora.rank} and the library holds up to {self.rank}; "
                f"make it with rank={lora.rank}"
            )
        if self.base is not None and lora.base is not None and lora.base != self.base:
            raise ValueError(
                f"adapter {name!r} was trained on other weights ({lora.base[:8]}) than the "
                f"library's ({self.base[:8]})"
            )
        for path, low_rank in lora.maps.items():
            if not (_is_finite(low_rank.down) and _is_finite(low_rank.up)):
                raise ValueError(
                    f"adapter {name!r} has numbers at {path} that are not finite (NaN or infinite "
                    "in float32); train it again, or get it again"
                )
            if path in self.tables:
                self._check_shape(name, path, low_rank, _read_shape(self.tables[path]))
            elif self._attached is not None:
                self._check_shape(name, path, low_rank, _shape(self._attached.model, path))

    def _check_shape(self, name: str, path: str, low_rank: LowRank, shape: tuple[int, int]) -> None:
        if low_rank.shape != shape:
            raise ValueError(
                f"adapter {name!r} is for another model: {path} maps {shape[0]} features to "
                f"{shape[1]}, and the adapter {low_rank.shape[0]} to {low_rank.shape[1]}"
            )

    def _new_table(self, path: str, low_rank: LowRank) -> None:
        d_in, d_out = low_rank.shape
        table = LoRATable(d_in, d_out, rank=self.rank, n_places=self.n_places)
        table.execution = self.execution
        if low_rank.down.dtype == torch.float64:
            table = table.double()
        self.tables[path] = table
        if self._attached is not None:
            self._attached.hook(path, table)

    # --- which are used

    def use(self, *names: str) -> None:
        """All tokens get these adapters, each whole; no name: the base alone."""
        self.mix(dict.fromkeys(names, 1.0))

    def mix(self, gates: Mapping[str, float] | None = None) -> None:
        """All tokens get the sum of adapters' outputs times their gates; None: the mean of all."""
        if gates is None:
            gates = dict.fromkeys(self.names, 1 / max(1, len(self.names)))
        self.set_route(Fixed({self.place(n): float(g) for n, g in gates.items()}, self.rank))

    def use_rows(self, names: Sequence[str | None], *, beams: int = 1) -> None:
        """Each sequence of a batch gets one adapter, whole, as peft's `adapter_names` has it; None
        and "__base__": the base alone. It stays until another choice is made.

        beams: of a search by generate(num_beams=...), which has so many copies of each sequence.
        Raises ValueError for an unknown name; a forward pass does for a batch of another size.
        """
        if isinstance(names, str) or not names or beams < 1:
            raise ValueError(
                f"use_rows({names!r}, beams={beams}) needs a list of names, one for each sequence, "
                "and a beam or more"
            )
        each = [BASE if name in (None, ROW_BASE) else self.place(name) for name in names]
        places = torch.tensor(each).repeat_interleave(beams)
        self.set_route(ByRow(places, self.rank))

    def arrow(self, *, top_k: int = 3, temperature: float = 1.0, memory: float = 1) -> None:
        """Each token gets, at each map, the top_k adapters by Arrow (routes.py)."""
        check_top_k(top_k, temperature)
        route = Arrow(rank=self.rank, top_k=top_k, temperature=temperature, memory=memory)
        for name in self.names:
            route.put(self.places[name], self.adapter(name), self.n_places)
        self.set_route(route)

    def set_route(self, route: Route) -> None:
        """Any of routes.py; product keys come from prototypes.py."""
        if isinstance(route, ProductKeys):
            route.execution = self.execution
        self._route = route

    # --- where it is

    def attach(self, model: nn.Module) -> None:
        """Puts it beside the model's linear maps, in place; the model's device is its own then.

        Raises ValueError, and changes nothing, for a map that the model has not, or of another
        shape, and for a library that is attached already.
        """
        if self._attached is not None:
            raise ValueError("the library is attached to a model; detach it first")
        for path, table in self.tables.items():
            shape = _shape(model, path)
            if _read_shape(table) != shape:
                raise ValueError(
                    f"the library is for another model: {path} maps {shape[0]} features to "
                    f"{shape[1]}, and the library's {_read_shape(table)[0]} to "
                    f"{_read_shape(table)[1]}"
                )
        self._attached = Attached(self, model)

    @property
    def model(self) -> nn.Module | None:
        return None if self._attached is None else self._attached.model

    @contextlib.contextmanager
    def reading(self, take: Callable[[Tensor], None]) -> Iterator[None]:
        """For a while the base is used alone, and `take` gets the hidden states (batch, n, d) that
        enter the first block that has an adapter.
        """
        route, self._route = self._route, _Watched(take)
        try:
            yield
        finally:
            self._route = route

    @contextlib.contextmanager
    def watching(self, sums: Tensor) -> Iterator[None]:
        """For a while the gates that a shared route gives are added up by place, (n_places,).

        Raises ValueError while the library is attached to no model.
        """
        if self._attached is None:
            raise ValueError("the library is attached to no model; attach it first")
        self._attached.sums = sums
        try:
            yield
        finally:
            self._attached.sums = None

    def detach(self) -> None:
        """Takes it off its model, which is what it was."""
        if self._attached is not None:
            self._attached.remove()
            self._attached = None


class _Watched(Route):
    """Base alone, and somebody who looks on."""

    def __init__(self, take: Callable[[Tensor], None]) -> None:
        self._take = take

    def choose(self, x: Tensor, path: str, reading: Reading) -> None:
        self._take(x)

    def describe(self) -> str:
        return "hand: none"


def _read_shape(table: LoRATable) -> tuple[int, int]:
    return table.w_down.shape[1], table.w_up.shape[1]


def _shape(model: nn.Module, path: str) -> tuple[int, int]:
    """(d_in, d_out) of the linear map at a path. Raises ValueError if there is none."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        raise ValueError(
            f"the library is for another model: {type(model).__name__} has no {path}"
        ) from None
    weight = getattr(module, "weight", None)
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D" and isinstance(weight, Tensor):  # GPT-2's
        return weight.shape[0], weight.shape[1]
    raise ValueError(f"{path} is a {type(module).__name__}, and no linear map")


def _is_finite(rows: Tensor) -> bool:
    return bool(rows.float().isfinite().all())
