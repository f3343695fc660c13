"""How a library is held by a model: hooks that choose at its first block and add at its maps."""

import re
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from experiments.adapters.routes import Choice, Reading, Text
from experiments.adapters.table import LoRATable
from experiments.init.slots import first_input

if TYPE_CHECKING:
    from experiments.adapters.library import LoRALibrary

_CACHES = ("past_key_values", "cache")  # of keys and values, in calls and in outputs
_BLOCK = re.compile(r"^(.*?\.\d+)(?=\.)")  # of a map's path, that of its block


class Attached:
    """The hooks of a library on a model."""

    def __init__(self, library: "LoRALibrary", model: nn.Module) -> None:
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
        for path, table in library.tables.items():
            self.hook(path, table)

    def hook(self, path: str, table: LoRATable) -> None:
        """Puts a table beside its map."""
        module = self.model.get_submodule(path)
        table.to(next(module.parameters()).device)

        def add(_: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
            return self._add(path, first_input(args, kwargs), output)

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
        """All of them."""
        for hook in (*self._hooks, self._at_block):
            if hook is not None:
                hook.remove()

    def _begin(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        given = [kwargs.get(name) for name in _CACHES] + list(args[1:])
        cache = next((c for c in given if hasattr(c, "layers")), None)
        text = Text() if cache is None else self._texts.setdefault(cache, Text())
        self.reading = Reading(text=text, n_read=0 if cache is None else _n_read(cache))
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

    def _add(self, path: str, x: Tensor, output: Tensor) -> Tensor:
        route, table = self.library.route, self.library.tables[path]
        choice = self.choice
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
