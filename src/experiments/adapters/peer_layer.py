"""A module of a model with PEER layers beside it, in the form in which peft holds adapters."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from experiments.adapters.peft_release import peft
from experiments.init.attached import Handed
from experiments.init.slots import first_input, make_shape
from experiments.models.ffn.peer import PEER, PEERConfig

# Where an adapter's tensors are here, and in a PEER. They have to be directly in a dict of this
# layer: one module deeper, and saved keys would keep the adapter's name.
PARAMETERS: Mapping[str, str] = {
    "peer_query": "query.weight",
    "peer_norm_weight": "query_norm.norm.weight",
    "peer_norm_bias": "query_norm.norm.bias",
    "peer_sub_keys": "sub_keys",
    "peer_w_down": "w_down",
    "peer_w_gate": "w_gate",
    "peer_w_up": "w_up",
}


class PeerLayer(nn.Module, peft.tuners.tuners_utils.BaseTunerLayer):
    """base_layer(x) + sum over the active adapters of PEER(x); x (..., d_model).

    He 2024, arXiv:2407.04153, Alg. 1, beside a module of a trained model. Tensors: a ParameterDict
    by adapter for each name of PARAMETERS; shapes are PEER's.

    first: the module that takes what the adapters read, where that is not the base_layer's own
    input (PeerConfig.pair). It is no submodule.
    peers: by adapter, a PEER without values (device meta). It is no submodule. A forward pass
    computes it with the tensors that the dicts hold at that time, so peft may put others there.
    """

    base_layer: nn.Module
    # peft's own, by their types
    active_adapters: list[str]
    disable_adapters: bool
    _move_adapter_to_device_of_base_layer: Callable[[str], None]

    adapter_layer_names = tuple(PARAMETERS)
    other_param_names = ("peers",)

    def __init__(
        self, base_layer: nn.Module, path: str, d_model: int, first: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.path, self.d_model = path, d_model
        self.training = base_layer.training
        for name in PARAMETERS:
            self.add_module(name, nn.ParameterDict())
        self.peers: dict[str, PEER] = {}
        self.merged_adapters: list[str] = []  # stays empty
        self.rows: Sequence[str] | None = None  # of a batch's sequences, their adapters
        self.handed = None if first is None else Handed(first)

    @property
    def first(self) -> nn.Module | None:
        """Module that takes what the adapters read; None: the base_layer."""
        return None if self.handed is None else self.handed.first

    def let_go(self) -> None:
        """Makes the module that takes the input what it was."""
        if self.handed is not None:
            self.handed.let_go()

    def update_layer(self, adapter_name: str, config: PEERConfig) -> None:
        """Adds an adapter, drawn from torch's generator, on the device and in the type of the base.

        peft makes 16 bits float32 afterwards, unless autocast_adapter_dtype=False.
        """
        drawn = dict(config.build(self.d_model).named_parameters())
        assert drawn.keys() <= set(PARAMETERS.values())
        for name, path in PARAMETERS.items():
            if path in drawn:
                self._tensors(name)[adapter_name] = drawn[path]
        with torch.device("meta"):
            self.peers[adapter_name] = config.build(self.d_model)
        self._move_adapter_to_device_of_base_layer(adapter_name)

    def _get_base_layer_device_and_dtype(
        self, base_layer: nn.Module
    ) -> tuple[torch.device | None, torch.dtype | None]:
        """Those of its first weights: an MLP has none of its own. (None, None) without values."""
        first = next(base_layer.parameters(), None)
        return (None, None) if first is None or first.is_meta else (first.device, first.dtype)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Base's output for the same arguments, plus that of the active adapters."""
        y = self.base_layer(*args, **kwargs)
        x = first_input(args, kwargs) if self.handed is None else self.handed.take()
        active = [name for name in self.active_adapters if name in self.peers]
        rows = self.rows
        if self.disable_adapters or not (active if rows is None else self.peers):
            return y
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)) or not (
            x.shape == y.shape and x.shape[-1] == self.d_model
        ):
            raise ValueError(
                f"{self.path} maps {make_shape(x)} to {make_shape(y)}, but a PEER adapter adds "
                f"(..., {self.d_model}) to what maps it to the same; name another module in "
                "target_modules, or another pair"
            )
        if rows is not None:
            return self._by_row(x, y, rows)
        first, *others = (self._peer(name, x) for name in active)
        # Under a base of 16 bits adapters are float32: small steps on small weights would be
        # rounded away. One rounding, of their sum, is to the type of the base's output.
        return y + sum(others, start=first).to(y)

    def _by_row(self, x: Tensor, y: Tensor, names: Sequence[str]) -> Tensor:
        """y plus each sequence's own adapter's output; x, y (batch, ..., d_model)."""
        if len(x) != len(names):
            raise ValueError(
                f"adapter_names has {len(names)} names and {self.path} a batch of {len(x)}; give "
                "one for each sequence"
            )
        y = y.clone()
        for name in dict.fromkeys(names):
            if name in self.peers:
                rows = torch.tensor([i for i, n in enumerate(names) if n == name], device=y.device)
                y[rows] += self._peer(name, x[rows]).to(y)
        return y

    def _peer(self, adapter_name: str, x: Tensor) -> Tensor:
        """One adapter's output, in its own type."""
        by_name = ((path, self._tensors(name)) for name, path in PARAMETERS.items())
        tensors = {path: held[adapter_name] for path, held in by_name if adapter_name in held}
        wide = x.to(tensors["query.weight"])
        output: Tensor = functional_call(self.peers[adapter_name], tensors, (wide,))
        return output

    def _tensors(self, name: str) -> nn.ParameterDict:
        held = self.get_submodule(name)
        assert isinstance(held, nn.ParameterDict)
        return held

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError: there is no such matrix."""
        refuse_merging()

    def unmerge(self) -> None:
        refuse_merging()


def refuse_merging() -> None:
    """Raises ValueError with the reason."""
    raise ValueError(
        "PEER can't be merged into the base's weights: each token retrieves experts of its own; "
        "keep the adapter beside them, or take it out by unload()"
    )
