"""PEER as a method of peft: get_peft_model(model, PeerConfig(...)), and all that follows from it.

Importing this module registers the method, for this process.
"""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from torch import nn

from experiments.adapters.library import ROW_BASE
from experiments.adapters.peer_config import PeerConfig
from experiments.adapters.peer_layer import PeerLayer, refuse_merging
from experiments.adapters.peft_release import peft
from experiments.init.slots import ARCHITECTURES, FORMS

__all__ = ["PeerConfig", "PeerLayer", "PeerModel"]


class PeerModel(peft.tuners.tuners_utils.BaseTuner):
    """A model with PEER adapters beside its targets. peft makes it; see PeerConfig."""

    prefix = "peer_"
    tuner_layer_cls = PeerLayer
    target_module_mapping = {  # noqa: RUF012 - peft's declaration
        kind: [path.rpartition(".")[2]]
        for kind, (path, _) in ARCHITECTURES.items()
        if isinstance(path, str)
    }

    def _prepare_adapter_config(
        self, peft_config: PeerConfig, model_config: Mapping[str, Any]
    ) -> PeerConfig:
        kind = model_config.get("model_type", "custom")
        if peft_config.target_modules is None:
            if kind not in self.target_module_mapping:
                raise ValueError(
                    f"the MLPs of {kind!r} are not known here (known: "
                    f"{', '.join(self.target_module_mapping)}); name them, as "
                    "target_modules=['mlp']"
                )
            peft_config.target_modules = set(self.target_module_mapping[kind])
        return peft_config

    def _prepare_model(self, peft_config: PeerConfig, model: nn.Module) -> None:
        """Raises ValueError for targets that can't have the adapter, before one is replaced."""
        layer = peft.tuners.tuners_utils.BaseTunerLayer
        inside = tuple(f"{k}." for k, m in model.named_modules() if isinstance(m, layer))
        found: dict[int, str] = {}
        for path, module in model.named_modules(remove_duplicate=False):
            if not path or path.startswith(inside):
                continue
            if not self._check_target_module_exists(peft_config, path):
                continue
            if id(module) in found:
                raise ValueError(
                    f"{found[id(module)]} and {path} are one module; an adapter would be beside "
                    "one of them alone: name another module in target_modules"
                )
            outer = next((p for p in found.values() if path.startswith(f"{p}.")), None)
            if outer is not None:
                raise ValueError(
                    f"{path} is a part of {outer}, and target_modules has both; name one of them"
                )
            found[id(module)] = path
            first = _find_first(peft_config, path, model)
            if isinstance(module, PeerLayer) and module.first is not first:
                raise ValueError(
                    f"{path} has an adapter that reads the input of another module; give the same "
                    "pair or target_modules to all adapters of a module"
                )
            find_width(module, path, model, first)
        targets = peft_config.pair or sorted(peft_config.target_modules or ())
        for number in peft_config.layer_numbers or ():
            if not any(f".{number}." in f".{path}" for path in found.values()):
                raise ValueError(
                    f"layers_to_transform={peft_config.layers_to_transform} names block {number}, "
                    f"in which no module is {targets}"
                )

    def _create_and_replace(
        self,
        peft_config: PeerConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        **_: Any,
    ) -> None:
        if isinstance(target, PeerLayer):
            target.update_layer(adapter_name, peft_config.layer())
            return
        first = _find_first(peft_config, current_key, self.model)
        d_model = find_width(target, current_key, self.model, first)
        layer = PeerLayer(target, current_key, d_model, first)
        layer.update_layer(adapter_name, peft_config.layer())
        self._replace_module(parent, target_name, layer, target)

    def _replace_module(
        self, parent: nn.Module, child_name: str, new_module: nn.Module, child: nn.Module
    ) -> None:
        # peft's own hands on `child.weight`, which an MLP does not have
        if isinstance(child, PeerLayer):
            child.let_go()
        setattr(parent, child_name, new_module)

    def _check_merge_allowed(self) -> None:
        refuse_merging()

    @contextlib.contextmanager
    def _enable_peft_forward_hooks(self, *args: Any, **kwargs: Any) -> Iterator[None]:
        # peft drops this argument before the model sees it
        names = kwargs.get("adapter_names")
        if names is None:
            yield
            return
        self._check_rows(names)
        beams = kwargs.get("num_beams") or 1  # copies of each sequence, side by side
        layers = [layer for layer in self.modules() if isinstance(layer, PeerLayer)]
        for layer in layers:
            layer.rows = [name for name in names for _ in range(beams)]
        try:
            yield
        finally:
            for layer in layers:
                layer.rows = None

    def _check_rows(self, names: Any) -> None:
        """Raises ValueError for what can't be one adapter for each sequence of a batch."""
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"adapter_names={names!r} must be a list of names, one a sequence")
        unknown = sorted({*names} - {ROW_BASE, *self.peft_config})
        if unknown:
            raise ValueError(
                f"adapter_names has {', '.join(unknown)}, which the model has not; it has "
                f"{', '.join(self.peft_config)}, and {ROW_BASE} for none"
            )
        if self.training:
            raise ValueError("adapter_names is for evaluation; call model.eval() first")
        wrapper = peft.utils.other.AuxiliaryTrainingWrapper
        if any(isinstance(module, wrapper) for module in self.modules()):
            raise ValueError(
                "adapter_names with modules_to_save, which the whole batch shares; choose one "
                "adapter by set_adapter()"
            )


def _find_first(config: PeerConfig, path: str, model: nn.Module) -> nn.Module | None:
    """Module that takes the input, of a pair. Raises ValueError if the model has none."""
    first = config.find_input(path)
    if first is None:
        return None
    try:
        return model.get_submodule(first)
    except AttributeError:
        raise ValueError(f"pair={config.pair}: {type(model).__name__} has no {first}") from None


def find_width(
    module: nn.Module, path: str, model: nn.Module, first: nn.Module | None = None
) -> int:
    """Width of what a target takes and gives, of its matrices; else config.hidden_size.

    first: of a pair, what takes the input. Raises ValueError for a target that changes the width,
    and if neither is there.
    """
    if isinstance(module, PeerLayer):
        return module.d_model
    widths = _widths(module)
    hidden_size = getattr(getattr(model, "config", None), "hidden_size", None)
    if first is not None:
        taken = _widths(first)
        widths = (taken or (hidden_size,))[0], (widths or (hidden_size,))[-1]
    elif widths is None and not isinstance(module, nn.Embedding):
        widths = (hidden_size, hidden_size)
    if widths is None or type(widths[0]) is not int:
        raise ValueError(
            f"the width of {path} ({type(module).__name__}) can't be read from its matrices or "
            "config.hidden_size; name a module in target_modules that maps hidden states to hidden "
            "states"
        )
    if widths[0] != widths[1]:
        raise ValueError(
            f"{path} ({type(module).__name__}) maps {widths[0]} features to {widths[1]}; "
            "target_modules must name modules that keep the width, as ['mlp']"
        )
    return widths[0]


def _widths(module: nn.Module) -> tuple[Any, Any] | None:
    """Features in and out, of a matrix or of an MLP whose matrices have known names."""
    for names in (("in_features", "out_features"), ("nx", "nf")):  # Linear, and Conv1D of GPT-2
        if all(hasattr(module, name) for name in names):
            return getattr(module, names[0]), getattr(module, names[1])
    for form in FORMS:
        up, down = (getattr(module, name, None) for name in (form.up, form.down))
        if isinstance(up, nn.Module) and isinstance(down, nn.Module):
            ends = _widths(up), _widths(down)
            if ends[0] is not None and ends[1] is not None:
                return ends[0][0], ends[1][1]
    return None


peft.utils.register_peft_method(name="peer", config_cls=PeerConfig, model_cls=PeerModel)
