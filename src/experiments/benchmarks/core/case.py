"""One shape's layer, input and upstream gradient, which all contenders share."""

from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.core import rivals
from experiments.benchmarks.core.moments import Moments
from experiments.benchmarks.core.shapes import Settings, Shape, type_name
from experiments.benchmarks.core.timing import Call, Contender
from experiments.kernels.ops import Execution
from experiments.kernels.workspace import use_huge_pages
from experiments.models.ffn._base import FFN
from experiments.models.ffn.peer import PEER, PEERConfig
from experiments.models.ffn.pkm import PKM, PKMConfig


class Case:
    """Inputs N(0, 1), a fixed upstream gradient N(0, 1), weights as they are initialised.

    So experts are used about evenly, the worst case for memory.
    """

    def __init__(self, shape: Shape, settings: Settings) -> None:
        """Takes no memory yet: tensors are made when they are first asked for."""
        self.shape, self.settings = shape, settings
        self._modules: list[nn.Module] = []

    @cached_property
    def peer(self) -> PEER:
        """Our layer, the owner of all weights."""
        torch.manual_seed(0)
        with torch.device(self.settings.device):
            peer: PEER = PEERConfig(**self._router()).build(self.shape.d_model)
        if self.settings.huge_pages:
            use_huge_pages(peer.w_down)
            use_huge_pages(peer.w_up)
        self.own(peer)
        return peer

    @cached_property
    def x(self) -> Tensor:
        """(1, T, D)."""
        return self._normal(1).requires_grad_()

    @cached_property
    def upstream(self) -> Tensor:
        """(1, T, D)."""
        return self._normal(2)

    def _normal(self, seed: int) -> Tensor:
        torch.manual_seed(seed)
        return torch.randn(1, self.shape.n_tokens, self.shape.d_model, device=self.settings.device)

    def _router(self) -> dict[str, Any]:
        s = self.shape
        sizes = {"n_experts": s.n_experts, "n_heads": s.n_heads, "top_k": s.top_k}
        types = {"d_key": s.d_key, "table_dtype": type_name(self.settings.table_dtype)}
        # as PEER-pytorch has it: no norm, sub-keys of each head
        return {**sizes, **types, "query_norm": "none", "share_keys": False}

    @cached_property
    def pkm(self) -> PKM:
        """With the router of `peer`, and one of its tables for values."""
        with torch.device("meta"):
            pkm: PKM = PKMConfig(**self._router()).build(self.shape.d_model)
        pkm.query, pkm.sub_keys, pkm.values = self.peer.query, self.peer.sub_keys, self.peer.w_down
        return pkm

    @cached_property
    def peer_rival(self) -> nn.Module:
        """PEER-pytorch, if it is installed."""
        return self.own(rivals.peer_pytorch(self.peer))

    @cached_property
    def pkm_rival(self) -> nn.Module:
        """product-key-memory, if it is installed."""
        return self.own(rivals.product_key_memory(self.pkm))

    @cached_property
    def naive(self) -> nn.Module:
        """PEER by the book."""
        return self.own(rivals.Naive(self.peer))

    def own(self, module: nn.Module) -> nn.Module:
        """module, whose gradients are then dropped with the others'."""
        self._modules.append(module)
        return module

    @cached_property
    def moments(self) -> Moments:
        """Moments of both tables."""
        return Moments([self.peer.w_down, self.peer.w_up], self.settings.huge_pages)

    @cached_property
    def n_distinct(self) -> int:
        """Rows of a table that this input retrieves."""
        with torch.no_grad():
            indices, _ = self.peer.route(self.x.flatten(0, -2))
        return len(indices.unique())

    def passes(self, module: nn.Module, how: Execution | None = None) -> Call:
        """Forward and backward. how: the execution that a layer of ours is set to before."""

        x, upstream = self.x, self.upstream

        def call() -> None:
            if how is not None:
                assert isinstance(module, FFN)
                module.execution = how
            with self.settings.autocast():
                y: Tensor = module(x)
            y.backward(upstream.to(y.dtype))

        return call

    def contender(self, name: str, make: Callable[[], Call], **about: Any) -> Contender:
        """One whose gradients are dropped before each call. about: its other fields."""
        return Contender(name=name, make=make, before=self.drop_gradients, **about)

    def drop_gradients(self) -> None:
        """Before each call; not timed, as their memory is not the layer's to give back."""
        self.x.grad = None
        for module in self._modules:
            module.zero_grad(set_to_none=True)
