"""How a library is held by a model: hooks that choose at its first block and add at its maps."""

import inspect
import re
from functools import partial
from typing import Any, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from experiments.adapters.evidence import Text
from experiments.adapters.routes import Choice, Reading, Route
from experiments.adapters.table import LoRATable
from experiments.init.slots import first_input

_CACHES = ("past_key_values", "cache")  # of keys and values, in calls and in outputs
_BLOCK = re.compile(r"^(.*?\.\d+)(?=\.)")  # of a map's path, that of its block


class Held(Protocol):
    """Parts of a library that a forward pass needs."""

    rank: int
    tables: dict[str, LoRATable]

    @property
    def route(self) -> Route: ...


L = TypeVar("L", bound=Held)


class Attached(Generic[L]):
    """Hooks of a library on a model.

    They are methods of this object, so a copy of the model, or a pickle, has a copy of the library
    with it. Texts that are being read are not copied.
    """

    def __init__(self, library: L, model: nn.Module) -> None:
        self.library, self.model = library, model
        self.reading = Reading()
        self._texts: WeakKeyDictionary[Any, Text] = WeakKeyDictionary()
        self.choice: Choice | None = None
        self.sums: Tensor | None = None
        self.shape: tuple[int, int] | None = None
        self._order = {name: i for i, (name, _) in enumerate(model.named_modules())}
        self._block: str | None = None
        self._at_block: Any = None
        self._hooks: list[Any] = [
            model.register_forward_pre_hook(self._begin, with_kwargs=True),
            model.register_forward_hook(self._end, with_kwargs=True),
        ]
        self._names = tuple(inspect.signature(model.forward).parameters)
        self._own_reorder = model.__dict__.get("_reorder_cache")  # of another library
        self._reorder = getattr(model, "_reorder_cache", None)
        model._reorder_cache = self._reordered  # type: ignore[assignment]  # by a search by beams
        for path, table in library.tables.items():
            self.hook(path, table)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "_texts"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._texts = WeakKeyDictionary()

    def hook(self, path: str, table: LoRATable) -> None:
        """Puts a table beside its map."""
        module = self.model.get_submodule(path)
        table.to(next(module.parameters()).device)
        add = partial(self._add, path)
        self._hooks.append(module.register_forward_hook(add, with_kwargs=True))
        found = _BLOCK.match(path)
        block = path if found is None else found[1]
        if self._block is None or self._order[block] < self._order[self._block]:
            self._block = block
            if self._at_block is not None:
                self._at_block.remove()
            self._at_block = self.model.get_submodule(block).register_forward_pre_hook(
                self._choose, with_kwargs=True
            )

    def remove(self) -> None:
        for hook in (*self._hooks, self._at_block):
            if hook is not None:
                hook.remove()
        if self.model._reorder_cache == self._reordered:
            del self.model._reorder_cache
            if self._own_reorder is not None:
                self.model._reorder_cache = self._own_reorder

    def _reordered(self, cache: Any, rows: Tensor) -> Any:
        """As transformers' generate asks of a model: the cache with other rows of its batch."""
        if (text := self._texts.get(cache)) is not None:
            text.reorder(rows)
        if self._reorder is not None:
            return self._reorder(cache, rows)
        cache.reorder_cache(rows)
        return cache

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [kwargs.get(name) for name in _CACHES] + list(args[1:])
        cache = next((c for c in given if hasattr(c, "layers")), None)
        text = Text() if cache is None else self._texts.setdefault(cache, Text())
        mask = {**dict(zip(self._names, args)), **kwargs}.get("attention_mask")
        self.reading = Reading(text=text, n_read=0 if cache is None else _n_read(cache), mask=mask)
        self.choice = None

    def _end(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        self.choice = None  # it is as large as the batch
        for name in _CACHES:  # of transformers' models, which make one where none is given
            cache = getattr(output, name, None)
            if cache is not None and self.reading.text is not None:
                self._texts[cache] = self.reading.text
        self.reading = Reading()

    def _choose(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        route = self.library.route
        if route.shared:
            self.choice = route.choose(first_input(args, kwargs), self._block or "", self.reading)
            if self.sums is not None and self.choice is not None:
                places = (self.choice.experts // self.library.rank).flatten().cpu()
                gates = self.choice.gates.flatten().double().cpu() / self.library.rank
                self.sums.index_add_(0, places, gates)

    def _add(self, path: str, module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
        route, table = self.library.route, self.library.tables[path]
        x, choice = first_input(args, kwargs), self.choice
        if not route.shared:
            choice = route.choose(x, path, self.reading)
        if choice is None:
            return output
        tokens = x.reshape(-1, x.shape[-1]).to(table.w_down.dtype)
        added = table(tokens, choice.experts, choice.gates)
        return output + added.view(output.shape).to(output.dtype)


def _n_read(cache: Any) -> int:
    """Tokens in a cache of keys and values: ours, or of transformers."""
    length = cache.get_seq_length() if hasattr(cache, "get_seq_length") else cache.length
    return int(length)
