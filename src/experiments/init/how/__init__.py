"""Ways to put weights into a run's blocks, a file each: init.how=NAME is NAME.py's `HOW`."""

import functools
import importlib
import pkgutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from experiments.budget.costs import FFNConfig
from experiments.config.constraints import shown
from experiments.config.schema import Init
from experiments.init.distil import Distilled
from experiments.models.ffn._base import FFN
from experiments.models.transformer import Transformer


@dataclass(frozen=True, kw_only=True)
class Started:
    """Cost and outcome of a start. flops: of distillation, the base model's share included.

    exact: whether the model with layers beside gives the logits of the one without, to the bit, on
    a batch of the text; None where none is beside. distilled: of each block whose layer was
    replaced. late: of each block whose layer has keys that are not let in yet, how far down a bias
    keeps them (init/growth).
    """

    flops: float = 0.0
    exact: bool | None = None
    distilled: Mapping[int, Distilled] = field(default_factory=dict)
    late: Mapping[int, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Seeded:
    """A model whose chosen blocks have been seeded. bases: what seed() returned for them."""

    model: Transformer
    init: Init
    bases: Mapping[int, FFN | None]
    batches: Iterator[Tensor]
    generator: torch.Generator


class How:
    """One way. `base` is the layer that a block of the weights holds, `layer` the one under study.

    as_it_is: the blocks hold the weights' own layer, and there is nothing to seed.
    """

    as_it_is: bool = False

    def is_own(self, base: FFNConfig) -> bool:
        """Whether the layer under study is the weights' own, or what that grows to."""
        return self.as_it_is or self.grows(base)

    def grows(self, base: FFNConfig) -> bool:
        """Whether the weights' own layer gets more experts."""
        return False

    def grown(self, base: FFNConfig, n_experts: int) -> FFNConfig:
        """Config that such a layer gets. Raises ValueError if it can't."""
        return base

    def is_exact(self, base: FFNConfig) -> bool:
        """Whether the model's function is the weights' own before the first step."""
        return False

    def check(
        self, init: Init, layer: FFNConfig, base: FFNConfig, block: int, d_model: int
    ) -> None:
        """Raises ValueError if the layer can't be seeded from the block's own."""

    def placed(self, layer: FFNConfig, base: FFNConfig) -> FFNConfig:
        """Layer of a chosen block."""
        return layer

    def seed(self, ffn: Any, base: Any, init: Init, generator: torch.Generator) -> FFN | None:
        """Seeds what a chosen block holds, in place; check() has refused what it can't seed.
        Returns the base if finish() needs it.
        """
        return None

    def finish(self, seeded: Seeded) -> Started:
        """Rest, once all blocks are seeded and what is not trained is frozen."""
        return Started()


def ways() -> tuple[str, ...]:
    """Names of all ways."""
    return tuple(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))


def find_how(name: Any) -> How:
    """Way of that name. Raises ValueError if there is none."""
    if not isinstance(name, str) or name not in ways():
        raise ValueError(f"init.how={shown(name)} is not one of {', '.join(ways())}")
    return _loaded(name)


@functools.cache
def _loaded(name: str) -> How:
    found: How = importlib.import_module(f"{__name__}.{name}").HOW
    return found
