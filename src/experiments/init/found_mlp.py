"""MLP of a block, found by what its modules do in a forward pass, whatever they are called.

An MLP is a part of a block that has two matrices or more, maps hidden states to hidden states of
the same width, and does so for each position by itself, which attention does not. Where such a part
gives a tuple, or there is none, a pair of modules is looked for (init/slots.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.init.slots import (
    Slot,
    check_blocks,
    evaluating,
    find_slots,
    first_input,
    is_known,
    run_on,
    slots_at,
)

AUTO = "auto"
_N_TOKENS = 4
_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2}  # of the largest output; else:
_EXACT = 1e-4
_LOOKED_FOR = (
    "a part with two matrices or more that maps hidden states to hidden states, each position by "
    "itself; or two linear maps, one after the other, that do so together"
)


@dataclass(frozen=True, kw_only=True)
class _Call:
    """Tensors that a module was given and gave. order: of its end among those that were called."""

    path: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    output: Any
    order: int

    @property
    def given(self) -> Any:
        return first_input(self.args, self.kwargs)


def slots_of(
    model: nn.Module, blocks: Sequence[int], mlp: str | tuple[str, str] | None
) -> tuple[Slot, ...]:
    """As find_slots; mlp="auto" looks for the MLP itself, where the architecture is not built in.

    Raises ValueError besides if it finds none or several, saying what was looked for.
    """
    if mlp != AUTO or is_known(model):
        return find_slots(model, blocks, None if mlp == AUTO else mlp)
    return slots_at(model, found_paths(model, blocks))


def found_paths(model: nn.Module, blocks: Sequence[int]) -> dict[int, tuple[str, ...]]:
    """Paths of each block's MLP below the model: one, or a pair. Runs the model once, on four
    tokens. Raises as slots_of.
    """
    calls = _calls(model)
    folder = _folder_of_blocks(model, calls)
    check_blocks(model, folder, blocks)
    with evaluating(model), torch.no_grad():
        return {block: _found(f"{folder}.{block}", calls) for block in blocks}


def _calls(model: nn.Module) -> dict[str, _Call]:
    calls: dict[str, _Call] = {}
    hooks = []
    for path, module in model.named_modules():

        def note(module: nn.Module, args: Any, kwargs: Any, output: Any, path: str = path) -> None:
            made = output.clone() if isinstance(output, Tensor) else output  # some add to it
            calls[path] = _Call(
                path=path, module=module, args=args, kwargs=kwargs, output=made, order=len(calls)
            )

        hooks.append(module.register_forward_hook(note, with_kwargs=True))
    try:
        # different ones: attention to equal ones looks like none
        embedding = getattr(model, "get_input_embeddings", lambda: None)()
        most = getattr(embedding, "num_embeddings", _N_TOKENS)
        run_on(model, torch.arange(_N_TOKENS).remainder(most))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _folder_of_blocks(model: nn.Module, calls: Mapping[str, _Call]) -> str:
    """Path of the longest list of modules that pass hidden states on, in no other list."""
    lists: dict[str, int] = {}
    for path, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and not path.startswith(tuple(f"{p}." for p in lists)):
            passing = [f"{path}.{name}" for name, _ in module.named_children()]
            if passing and all(one in calls and _keeps_shape(calls[one]) for one in passing):
                lists[path] = len(passing)
    longest = [path for path, n in lists.items() if n == max(lists.values())]
    if len(longest) != 1:
        found = (
            f"several lists of blocks ({', '.join(longest)})" if longest else "no list of blocks"
        )
        raise ValueError(
            f"mlp='auto': {type(model).__name__} has {found} that pass hidden states on; name the "
            "MLP's path, as mlp='model.layers.{}.mlp'"
        )
    return longest[0]


def _found(block: str, calls: Mapping[str, _Call]) -> tuple[str, ...]:
    parts = _children(block, calls)
    whole = [call for call in parts if _keeps_shape(call) and _is_positionwise(call)]
    found = [_inside(call, calls) for call in whole]
    pair = _two_maps(parts) if not whole else None
    if pair is not None:
        found = [pair]
    if len(found) == 1 and found[0]:
        return found[0]
    if len(found) > 1:
        raise ValueError(
            f"mlp='auto': {block} has {len(found)} MLPs: {', '.join(c.path for c in whole)}; name "
            "one by mlp=, with {} in the place of the block's number"
        )
    names = ", ".join(f"{c.path.rpartition('.')[2]} ({type(c.module).__name__})" for c in parts)
    raise ValueError(
        f"mlp='auto' finds no MLP in {block}, which has {names or 'no parts'}; looked for was "
        f"{_LOOKED_FOR}; name its path by mlp=, or a pair"
    )


def _children(path: str, calls: Mapping[str, _Call]) -> list[_Call]:
    """Parts of a module that were called, in the order of their ends."""
    own = (c for p, c in calls.items() if p.rpartition(".")[0] == path)
    return sorted(own, key=lambda call: call.order)


def _inside(call: _Call, calls: Mapping[str, _Call]) -> tuple[str, ...]:
    """Module itself; of one that gives a tuple the parts at its ends; () if they are none."""
    if isinstance(call.output, Tensor):
        return (call.path,)
    parts = _children(call.path, calls)
    width = call.given.shape[-1]
    first = next((c for c in parts if _width(c.given) == width), None)
    lasts = [c for c in parts if first is not None and _shape(c.output) == _shape(first.given)]
    for last in reversed(lasts):
        if first is not None and last is not first and _adds_up(call, last):
            return first.path, last.path
    return ()


def _adds_up(call: _Call, last: _Call) -> bool:
    """Whether what is added to a part's output is added to that of the whole."""
    added = torch.randn(last.output.shape, generator=torch.Generator().manual_seed(0))

    def add(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output + added.to(output)

    hook = last.module.register_forward_hook(add)
    try:
        after = _first(call.module(*call.args, **call.kwargs))
    except Exception:
        return False
    finally:
        hook.remove()
    before = _first(call.output)
    return _is_near(after - before, added.view(before.shape).to(before), before + after)


def _two_maps(parts: Sequence[_Call]) -> tuple[str, str] | None:
    """Last two linear maps of a block itself, if together they keep the width."""
    maps = [c for c in parts if getattr(c.module, "weight", _NONE).dim() == 2]
    if len(maps) < 2:
        return None
    first, last = maps[-2:]
    widened = _width(first.output) == _width(last.given) != _width(first.given)
    return (
        (first.path, last.path) if widened and _shape(first.given) == _shape(last.output) else None
    )


_NONE = torch.empty(0)


def _is_positionwise(call: _Call) -> bool:
    """Whether it has two matrices or more, and gives the last position alone what it gave it among
    others.
    """
    if sum(parameter.dim() >= 2 for parameter in call.module.parameters()) < 2:
        return False

    def last(value: Any) -> Any:
        sliced = isinstance(value, Tensor) and value.dim() >= 2 and value.shape[1] == _N_TOKENS
        return value[:, -1:] if sliced else value

    try:
        alone = call.module(*map(last, call.args), **{k: last(v) for k, v in call.kwargs.items()})
    except Exception:  # of a part that needs more than hidden states
        return False
    among, alone = _first(call.output), _first(alone)
    rows = among.reshape(_N_TOKENS, -1)  # some give them without the batch
    fits = isinstance(alone, Tensor) and alone.numel() == rows.shape[1]
    return fits and _is_near(alone.reshape(-1), rows[-1], rows)


def _is_near(x: Tensor, y: Tensor, scale: Tensor) -> bool:
    bound = _TOLERANCE.get(scale.dtype, _EXACT) * scale.abs().max()
    return bool((x - y).abs().max() <= bound)


def _keeps_shape(call: _Call) -> bool:
    """Whether hidden states, (1, tokens, width), become as many; without the batch in some."""
    shape, made = _shape(call.given), _shape(_first(call.output))
    if shape is None or made is None or len(shape) != 3:
        return False
    return made[-1] == shape[-1] and made.numel() == shape.numel()


def _first(output: Any) -> Any:
    return output[0] if isinstance(output, tuple) and output else output


def _shape(value: Any) -> torch.Size | None:
    return value.shape if isinstance(value, Tensor) else None


def _width(value: Any) -> int | None:
    return value.shape[-1] if isinstance(value, Tensor) and value.dim() else None
