"""A layer with more experts than it was trained with. What it had keeps its numbers.

bias    New experts are kept out of reach at first, so the function is the old one to the bit, and
        let in while the layer is trained (init/run_parts/growth.py).
copies  Each expert several times. The function is the old one to rounding.
beside  The layer as it is, and beside it one of the same kind with the other experts, whose outputs
        are zero.

A file here is how the layers of one kind grow: a `Grower`, found by itself as the file's `GROWER`.
"""

import functools
import importlib
import pkgutil
from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig, find_name
from experiments.models.ffn._base import FFN
from experiments.models.ffn.beside import BesideConfig


class Grower(ABC):
    """How layers grow whose configs are of the class `config`, or of one that derives from it.

    ways: of bias, copies and beside. Each such layer has its config as `config`, which says
    `n_experts`. One that grows by bias obeys its `late` (models/ffn/_base.py).
    """

    config: type
    ways: tuple[str, ...]

    @abstractmethod
    def grown(self, config: Any, n_experts: int, how: str) -> Any:
        """Config with n_experts, which are more than its own; with beside, that of the layer
        that has the others. Raises ValueError if there can't be so many.
        """

    @abstractmethod
    def in_grown(self, name: str, tensor: Tensor, layer: Any, grown: Any, how: str) -> Tensor:
        """A tensor of the layer's parameter or buffer `name`, it or a moment of it, as the grown
        layer has it. Old entries are where they were; new ones are zero with bias, and repeat the
        old ones with copies.
        """

    @abstractmethod
    def begin(
        self, grown: Any, layer: Any, *, how: str, noise: float, generator: torch.Generator
    ) -> None:
        """Makes the new entries what they begin as, in place. The tensors are those of in_grown."""

    def n_old(self, config: Any) -> int:
        """Late.n_old of a layer that has grown by bias from one of this config."""
        n: int = config.n_experts
        return n

    def d_model(self, layer: Any) -> int:
        """Width that the layer is of."""
        return int(layer.output_weights()[0].shape[-1])

    def late_depth(self, grown: Any, x: Tensor) -> float:
        """How far below 0 the late bias has to be, so that x (T, d_model) reads nothing new."""
        return 0.0


def kinds() -> tuple[str, ...]:
    """Names of the kinds of layers that can grow."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


@functools.cache
def _growers() -> dict[type, Grower]:
    found: list[Grower] = [importlib.import_module(f"{__name__}.{name}").GROWER for name in kinds()]
    return {grower.config: grower for grower in found}


def can_grow(config: object) -> bool:
    """Whether layers of this config can get more experts."""
    return any(kind in _growers() for kind in type(config).__mro__)


def find_grower(config: object) -> Grower:
    """How layers of this config grow. Raises ValueError if they can't."""
    for kind in type(config).__mro__:
        if kind in _growers():
            return _growers()[kind]
    raise ValueError(
        f"{find_name(config)} has no experts that could become more; layers that can grow are of "
        f"these kinds: {', '.join(kinds())}"
    )


def grown_config(config: FFNConfig, n_experts: int, how: str) -> FFNConfig:
    """Config of the layer with n_experts. Raises ValueError if it can't have so many."""
    try:
        grower, old = find_grower(config), getattr(config, "n_experts", 0)
    except ValueError as error:
        raise ValueError(f"init.how={how}: {error}; set another init.how") from None
    if n_experts <= old:
        raise ValueError(
            f"n_experts={n_experts} is not more than the {old} that the layer has; give a larger "
            "number"
        )
    if how not in grower.ways:
        raise ValueError(
            f"how={how!r} is no way in which {find_name(config)} grows; set how="
            f"{' or '.join(grower.ways)}"
        )
    new: FFNConfig = grower.grown(config, n_experts, how)
    return new


def grow(
    layer: FFN,
    n_experts: int,
    *,
    how: str = "bias",
    noise: float = 0.1,
    generator: torch.Generator | None = None,
) -> FFN:
    """A new layer with n_experts, all those of `layer` among them.

    how: bias | copies | beside (above). A layer grown by `bias` has its new experts out of reach:
    its attribute `late` says so, and setting that to None lets them in.

    noise: of bias: how far new keys are from old ones, in standard deviations of a key; of copies:
    what tells copies apart, relative to a row's size. It adds up to zero over the copies. Of a
    mixture with top_k=1 it is on the choice, in thousandths of the mean gate.

    The new layer's tensors have the types and devices of the old one's.

    Raises ValueError for a layer that can't grow, fewer experts, and numbers that it can't have.
    """
    own: Any = getattr(layer, "config", layer)  # else the layer is refused by its name
    new = grown_config(own, n_experts, how)
    d_model = find_grower(own).d_model(layer)
    if how == "beside":
        pair = BesideConfig(frozen=own, trained=new).build(d_model)
        pair.ffn, pair.layer = layer, _as_typed(pair.layer, layer)
        pair.silence()
        return pair.train(layer.training)
    grown: FFN = _as_typed(new.build(d_model), layer)
    generator = generator or torch.Generator().manual_seed(0)
    grow_into(grown, layer, how=how, noise=noise, generator=generator)
    return grown.train(layer.training)


def _as_typed(grown: FFN, layer: FFN) -> FFN:
    """Grown layer, each tensor of the type and on the device of the layer's own."""
    own = dict([*layer.named_parameters(), *layer.named_buffers()])
    for name, tensor in [*grown.named_parameters(), *grown.named_buffers()]:
        tensor.data = tensor.data.to(own[name].device, own[name].dtype)
    return grown


@torch.no_grad()
def grow_into(
    grown: FFN, layer: FFN, *, how: str, noise: float, generator: torch.Generator
) -> None:
    """Gives a layer of grown_config() the tensors of the one that it has grown from, in place."""
    old = layer.state_dict()
    for name, tensor in grown.state_dict().items():
        tensor.copy_(in_grown(name, old[name], layer, grown, how))
    find_grower(layer.config).begin(grown, layer, how=how, noise=noise, generator=generator)


def in_grown(name: str, tensor: Tensor, layer: FFN, grown: FFN, how: str) -> Tensor:
    """Grower.in_grown, of the layer's kind."""
    return find_grower(layer.config).in_grown(name, tensor, layer, grown, how)
