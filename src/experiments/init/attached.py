"""How a layer is held by a transformers model: beside an MLP, or in its place.

The MLP's modules keep their names in both ways, so the base's weights have the keys that they had.
The layer is `<path of the MLP>.peer`.
"""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from experiments.config.constraints import AtLeast0
from experiments.init.slots import first_input
from experiments.models.ffn.peer import PEER, PEERConfig

How = Literal["beside", "copies", "replace"]


@dataclass(frozen=True, kw_only=True)
class Retrofit:
    """How a layer came into a model.

    paths: the MLP's, below the model: one, or the first and the last of a pair. constant: the layer
    is one wider than the model. Its last input is 1, which carries the biases of the hidden units
    that it replaces.
    """

    block: AtLeast0
    paths: tuple[str, ...]
    how: How
    config: PEERConfig
    constant: bool = False

    def __post_init__(self) -> None:
        if len(self.paths) not in ((1,) if self.how == "replace" else (1, 2)):
            raise ValueError(
                f"paths={list(self.paths)} must be the MLP's or, of a layer beside it, two: of the "
                "module that takes its input, and of the one that gives its output"
            )


class Added(nn.Module):
    """A layer and where it belongs; hidden states (..., d_model) to the same.

    The layer keeps its own types, float32 under a base of 16 bits: small steps on small weights
    would be rounded away there. So inputs are cast to them, and outputs to the base's.

    bias (d_model,): of the MLP that the layer replaces; None for none.
    """

    def __init__(self, layer: PEER, made: Retrofit, bias: Tensor | None = None) -> None:
        super().__init__()
        self.layer = layer
        self.made = made
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """Addition to the MLP's output, or its replacement."""
        wide = x.to(self.layer.sub_keys.dtype)  # the query's weight may be quantised
        if self.made.constant:
            wide = torch.cat([wide, torch.ones_like(wide[..., :1])], dim=-1)
        y = self.layer(wide)
        if self.made.constant:
            y = y[..., :-1]
        if self.bias is not None:
            y = y + self.bias
        return y.to(x.dtype)


class Replaced(nn.Module):
    """A layer in the place of an MLP, whose modules are kept here under their names, unused.

    They go where the model goes, and to the type that it is cast to. Their weights are no longer
    trained: an unused weight that asks for a gradient is an error to DDP.
    """

    def __init__(self, mlp: nn.Module, added: Added) -> None:
        super().__init__()
        for name, module in mlp.named_children():
            self.add_module(name, module)
        self.peer = added
        self.original = (mlp,)  # in a tuple: no module of this one
        self.trained = [p for p in mlp.parameters() if p.requires_grad]
        mlp.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Layer's output for what the MLP would be given."""
        y: Tensor = self.peer(first_input(args, kwargs))
        return y

    def put_back(self) -> nn.Module:
        """MLP, as it was."""
        mlp = self.original[0]
        mlp.training = self.training
        for parameter in self.trained:
            parameter.requires_grad_()
        return mlp


class Handed:
    """Input of a pair's first module, kept until its last one has given its output."""

    def __init__(self, first: nn.Module) -> None:
        self.first = first
        self.x: Any = None
        if not hasattr(first, "peer_inputs"):
            vars(first)["peer_inputs"] = []
            first.register_forward_pre_hook(_keep_input, with_kwargs=True)
        vars(first)["peer_inputs"].append(self)

    def take(self) -> Any:
        """It, which is then kept no longer."""
        x, self.x = self.x, None
        return x

    def let_go(self) -> None:
        """Makes the first module what it was, but for others that its input is kept for."""
        vars(self.first)["peer_inputs"].remove(self)
        if not vars(self.first)["peer_inputs"]:
            del self.first.peer_inputs
            _remove_hooks(self.first, _keep_input)


# The hooks are plain functions, and what they need is an attribute of their module: so a deep copy
# of the model, or a replica on another device, uses its own layers.


def _keep_input(module: nn.Module, args: Any, kwargs: Any = None) -> None:
    if kwargs is None:  # torch's quantisation makes new modules, and calls their hooks otherwise
        raise ValueError(
            "a module with a PEER layer was replaced (by quantize_dynamic?), and the layer is not "
            "in the new one; change the model first, then call retrofit or get_peft_model"
        )
    for handed in vars(module)["peer_inputs"]:
        handed.x = first_input(args, kwargs)


def _add_to_pair(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    x = vars(module)["peer_handed"].take()
    return output + module.peer(x).view_as(output).to(output.dtype)  # type: ignore[operator]


def _add(module: nn.Module, args: Any, kwargs: Any, output: Tensor) -> Tensor:
    # under autocast an MLP's output may have another type than its input
    return output + module.peer(first_input(args, kwargs)).to(output.dtype)  # type: ignore[operator]


def attach(model: nn.Module, added: Added) -> None:
    """Puts a layer where it belongs."""
    modules = [model.get_submodule(path) for path in added.made.paths]
    first, last = modules[0], modules[-1]
    added.train(last.training)
    if added.made.how == "replace":
        model.set_submodule(added.made.paths[0], Replaced(last, added).train(last.training))
        return
    last.peer = added
    if first is last:
        last.register_forward_hook(_add, with_kwargs=True)
    else:
        vars(last)["peer_handed"] = Handed(first)
        last.register_forward_hook(_add_to_pair, with_kwargs=True)


def detach(model: nn.Module, added: Added) -> None:
    """Takes a layer out of its place."""
    modules = [model.get_submodule(path) for path in added.made.paths]
    if isinstance(modules[0], Replaced):
        model.set_submodule(added.made.paths[0], modules[0].put_back())
        return
    first, last = modules[0], modules[-1]
    del last.peer
    if first is not last:
        vars(last).pop("peer_handed").let_go()
    _remove_hooks(last, _add, _add_to_pair)


def _remove_hooks(module: nn.Module, *ours: Any) -> None:
    """By function and not by handle: a deep copy's handle would remove the original's hook."""
    for hooks, with_kwargs in (
        (module._forward_pre_hooks, module._forward_pre_hooks_with_kwargs),
        (module._forward_hooks, module._forward_hooks_with_kwargs),
    ):
        for number in [n for n, hook in hooks.items() if hook in ours]:
            del hooks[number]
            with_kwargs.pop(number, None)


def find_layers(model: nn.Module) -> tuple[Added, ...]:
    """Layers that retrofit() put into a model, in the order of its modules.

    Raises ValueError if that is nothing.
    """
    found = tuple(module for module in model.modules() if isinstance(module, Added))
    if not found:
        raise ValueError(f"{type(model).__name__} has no layer of retrofit(); call retrofit first")
    return found
