"""A PEER layer in a transformers model, in place: beside the MLPs of chosen blocks.

Exact at the start: the rows that write (w_up) are zero, so logits are the base's to the bit. The
MLPs keep their names, so the base's own weights have the keys that they had; the layer of a block
is `<path of its MLP>.peer`.

The memory beside the feed-forward layer of a pretrained model is Kim and Jung's (2020,
arXiv:2010.03881, §3), there with product-key memories that start at random.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from experiments.init.slots import Slot, find_slots, first_input
from experiments.models.ffn._base import check_choice
from experiments.models.ffn.peer import PEER, PEERConfig

HOWS = ("beside",)
Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True, kw_only=True)
class Retrofit:
    """How a layer came into a model. paths: the MLP's, below the model."""

    block: int
    paths: tuple[str, ...]
    how: str
    config: PEERConfig


class Added(nn.Module):
    """A layer and where it belongs; hidden states (..., d_model) to the same.

    The layer keeps its own types, float32 under a base of 16 bits: small steps on small weights
    would be rounded away there. So inputs are cast to them, and outputs to the base's.
    """

    def __init__(self, layer: PEER, made: Retrofit) -> None:
        super().__init__()
        self.layer = layer
        self.made = made

    def forward(self, x: Tensor) -> Tensor:
        """What is to be added to the MLP's output."""
        return self.layer(x.to(self.layer.query.weight.dtype)).to(x.dtype)


def retrofit(
    model: Model,
    blocks: Sequence[int],
    config: PEERConfig,
    how: str = "beside",
    mlp: str | tuple[str, str] | None = None,
    seed: int = 0,
) -> Model:
    """The same model, with a PEER layer in each of the given blocks (from 0).

    model: a causal language model of transformers. Built in are GPT-2, GPT-NeoX (Pythia), Llama,
    Mistral, Qwen 2 and 3, SmolLM; another one's MLP is named by its path below the model with {}
    for the block, as mlp="model.layers.{}.mlp". Where the MLP is no module by itself, mlp is a
    pair: the path of the module that takes its input, and of the one that gives its output.

    how: beside: the layer's output is added to the MLP's; w_up starts at zero, so that the
        function is unchanged to the bit.
    seed: of what starts at random, for each block by itself.

    The layer is on the device of the MLP. Its type is float32 (float64 in a model of float64), and
    config.table_dtype for the tables. Raises ValueError, before anything is changed, for what
    can't be done.
    """
    check_choice("how", how, HOWS)
    _check_config(config)
    slots = find_slots(model, blocks, mlp)
    _check_free(slots)
    added = []
    for slot in slots:
        zero = dataclasses.replace(config, value_init="zero")
        layer = _built(zero, slot, seed)
        made = Retrofit(block=slot.block, paths=slot.paths, how=how, config=zero)
        added.append(Added(layer, made))
    for new in added:
        attach(model, new)
    return model


def unretrofit(model: Model) -> Model:
    """The same model without the layers that retrofit() put into it: the base, to the bit.

    Weights of the base that were trained meanwhile stay trained.
    """
    for added in list(layers_of(model)):
        detach(model, added)
    return model


def freeze_base(model: Model) -> Model:
    """The same model; the layers that retrofit() put into it are trained, nothing else is."""
    model.requires_grad_(False)
    for added in layers_of(model):
        added.requires_grad_(True)
    return model


def layers_of(model: nn.Module) -> tuple[Added, ...]:
    """What retrofit() put into a model, in the order of its modules.

    Raises ValueError if that is nothing.
    """
    found = tuple(module for module in model.modules() if isinstance(module, Added))
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer of retrofit(); call retrofit first")
    return found


class _Passed:
    """Hands the input of a pair's first module to its last one."""

    x: Tensor | None = None


# The hooks are plain functions, and what they need is an attribute of their module: so a deep copy
# of the model, or a replica on another device, uses its own layers.


def _keep_input(module: nn.Module, args: Any, kwargs: Any) -> None:
    module.peer_input.x = first_input(args, kwargs)  # type: ignore[union-attr]


def _add_to_pair(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    passed = module.peer_input
    assert isinstance(passed, _Passed)
    assert passed.x is not None
    x, passed.x = passed.x, None
    return output + module.peer(x).view_as(output)  # type: ignore[operator]


def _add(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    return output + module.peer(first_input(args, kwargs))  # type: ignore[operator]


def attach(model: nn.Module, added: Added) -> None:
    """Puts a layer where it belongs."""
    modules = [model.get_submodule(path) for path in added.made.paths]
    first, last = modules[0], modules[-1]
    last.peer = added
    if first is last:
        last.register_forward_hook(_add, with_kwargs=True)
    else:
        first.peer_input = last.peer_input = _Passed()  # type: ignore[assignment]
        first.register_forward_pre_hook(_keep_input, with_kwargs=True)
        last.register_forward_hook(_add_to_pair, with_kwargs=True)


def detach(model: nn.Module, added: Added) -> None:
    """Takes a layer out of its place."""
    modules = [model.get_submodule(path) for path in added.made.paths]
    del modules[-1].peer
    for module in modules:
        if hasattr(module, "peer_input"):
            del module.peer_input
        _remove_hooks(module)


def _remove_hooks(module: nn.Module) -> None:
    """By function and not by handle: a deep copy's handle would remove the original's hook."""
    ours = (_keep_input, _add_to_pair, _add)
    for hooks, with_kwargs in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for number in [n for n, hook in hooks.items() if hook in ours]:
            del hooks[number]
            with_kwargs.pop(number, None)


def _check_config(config: PEERConfig) -> None:
    if config.query_norm == "batch":
        raise ValueError(
            "query_norm='batch' keeps statistics of its inputs, which drift with the domain and "
            "which no gradient brings back; take query_norm='layer' or 'none'"
        )


def _check_free(slots: Sequence[Slot]) -> None:
    for slot in slots:
        if hasattr(slot.last, "peer") or isinstance(slot.last, Added):
            raise ValueError(
                f"block {slot.block} has a layer of retrofit() at {slot.paths[-1]}; take another "
                "block, or call unretrofit first"
            )


def _built(config: PEERConfig, slot: Slot, seed: int) -> PEER:
    """A layer for a slot, drawn from a seed of its own; torch's generator is as it was."""
    drawn = int(np.random.SeedSequence([seed, slot.block]).generate_state(1)[0])
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(drawn)  # torch.manual_seed would seed GPUs too
        layer = config.build(slot.d_model)
    return layer.to(slot.device, torch.float64 if slot.dtype == torch.float64 else None)
